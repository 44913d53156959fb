"""Step 7: multiple-choice evaluation."""
