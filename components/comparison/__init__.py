"""Every variant of an ablation against a baseline."""
