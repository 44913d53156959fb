"""training_set: what a fine-tuning reads, of all shards in one."""
