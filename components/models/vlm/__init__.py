"""Vision-language models, one file per family."""
