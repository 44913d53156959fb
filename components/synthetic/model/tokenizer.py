"""The small model's tokenizer: a T5 tokenizer that knows the words of the `scenes` captions.

A word is a token (`▁red`), so that character spans are whole words. Anything else, a capital or a full stop included,
is `<unk>`, which training never shows: a text with unknown words gets a prior from its known ones at best, and whoever
shows it should say so.
"""

from __future__ import annotations

from transformers import T5Tokenizer

from components.synthetic.scenes import VOCABULARY

LENGTH = 16  # the longest caption has 14 words; `</s>` follows


def make_tokenizer() -> T5Tokenizer:
    """Return the closed vocabulary; offsets and padding work as with a real T5 tokenizer."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [(f"▁{word}", -2.0 - 0.001 * rank) for rank, word in enumerate(VOCABULARY)]
    return T5Tokenizer(vocab=[*special, *pieces], extra_ids=0, model_max_length=LENGTH)
