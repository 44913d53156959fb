"""A small CogVideoX trained on the `scenes` preset: its code (VAE), text, network, data and trainer; `README.md` is its card's template."""
