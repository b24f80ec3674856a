"""Tests of curation and of training the encoder."""
