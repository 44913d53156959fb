"""The synthetic video set, and the small video model that is trained on it."""
