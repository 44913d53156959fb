"""A small CogVideoX trained on the `scenes` preset: its code (VAE), text, network, data and trainer.

`checkpoint/` is the shipped one, `card.md` the template of a checkpoint's card.
"""
