"""Step 0: videos and questions in, checked samples out."""
