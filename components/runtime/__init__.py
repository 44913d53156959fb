"""A step while it runs: its declaration, parameters, executor input, context, runner, shards."""
