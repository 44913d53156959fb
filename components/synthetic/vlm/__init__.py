"""The small vision-language model: a Qwen2.5-VL; its recipe, training conversations, training and card."""
