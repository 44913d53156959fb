"""The small video model: a CogVideoX with a constructed VAE and a closed vocabulary, its recipe, data and card."""

RECORD = "training.json"  # what a trained checkpoint is, for programs
