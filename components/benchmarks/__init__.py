"""Benchmarks: how each is read, asked, parsed and scored, and what the paper printed."""
