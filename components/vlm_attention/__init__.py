"""Step 5: the same words in the VLM."""
