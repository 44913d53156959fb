"""Step 6: supervised fine-tuning with attention alignment."""
