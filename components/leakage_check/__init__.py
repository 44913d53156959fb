"""Which training videos show, name or quote what a benchmark asks about."""
