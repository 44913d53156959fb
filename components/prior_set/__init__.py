"""The shards' priors joined into one data set with a card."""
