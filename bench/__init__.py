"""Measured claims: every number is a ratio of two things that were run side by side here."""
