"""Decoding, time and geometry, the synthetic video set."""
