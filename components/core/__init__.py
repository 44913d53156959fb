"""Contracts shared by all steps: declaration, artifacts, store, errors. No torch, no kfp."""
