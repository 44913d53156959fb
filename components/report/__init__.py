"""Step 8: the report page."""
