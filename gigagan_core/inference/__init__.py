"""Images from models: the functions that evaluation and people call."""
