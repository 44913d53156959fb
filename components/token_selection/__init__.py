"""Step 4 (MTTI): which words carry motion; the motion prior."""
