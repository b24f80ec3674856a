"""Prefect flows: what runs, in which order, when again. No image or tensor code."""
