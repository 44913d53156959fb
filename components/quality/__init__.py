"""Measures of a prior against ground truth, and the intervals and tests that go with them."""
