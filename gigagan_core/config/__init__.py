"""Typed settings of every stage, and the presets that fill them."""
