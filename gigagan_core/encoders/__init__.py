"""Frozen text-image encoders: one protocol, open_clip's folders and weight files, and small ones trained here."""
