"""The small video model: a CogVideoX with a constructed VAE and a closed vocabulary; its recipe, training and card."""
