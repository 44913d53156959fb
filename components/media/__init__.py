"""Video files, the time and geometry of attention grids, and the synthetic set."""
