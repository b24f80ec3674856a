"""Tests of `gigagan doctor`."""
