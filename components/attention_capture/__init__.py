"""Step 2: reconstruct, and read the attention while it happens."""
