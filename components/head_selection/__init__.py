"""Step 3 (MHS): which heads follow motion."""
