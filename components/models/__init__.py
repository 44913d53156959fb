"""Pinned checkpoints, loading, tiny random twins."""
