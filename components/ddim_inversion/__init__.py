"""Step 1: video to inverted trajectory."""
