"""Evaluation protocols as data, and the one way to carry them out."""
