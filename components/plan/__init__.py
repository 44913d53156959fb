"""What this run will compute, and what it will cost."""
