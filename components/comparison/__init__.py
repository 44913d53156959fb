"""comparison: every variant of a run against a baseline."""
