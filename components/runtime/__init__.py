"""A step while it runs: its declaration, parameters, context, runner and processes."""
