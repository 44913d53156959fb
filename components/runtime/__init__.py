"""A step while it runs: its declaration, parameters, context and runner."""
