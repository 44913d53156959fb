"""The small model's text side: a T5 tokenizer whose words are those of the `scenes` captions, and a small T5 encoder.

A word is a token (`▁red`), so that character spans are whole words. Anything else, a capital or a full stop included, is `<unk>`, which
training never shows: a text with unknown words gets a prior from its known ones at best, and whoever shows it should say so.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel, T5Tokenizer

from components.media.scenes import VOCABULARY

LENGTH = 16  # the longest caption has 14 words; `</s>` follows
WIDTH = 64


def make_tokenizer() -> T5Tokenizer:
    """The closed vocabulary; offsets and padding work as with a real T5 tokenizer."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [(f"▁{word}", -2.0 - 0.001 * rank) for rank, word in enumerate(VOCABULARY)]
    return T5Tokenizer(vocab=[*special, *pieces], extra_ids=0, model_max_length=LENGTH)


def make_text_encoder(vocabulary: int) -> T5EncoderModel:
    """Two layers, for `vocabulary` tokens, with the class's own initialization."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=WIDTH,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config)


def unknown_words(text: str, tokenizer: PreTrainedTokenizerBase | None = None) -> list[str]:
    """Words of `text` that the tokenizer (the small model's if None) does not know in full, in order, each once."""
    tokenizer = make_tokenizer() if tokenizer is None else tokenizer
    found = [word for word in text.split() if tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False).input_ids]
    return list(dict.fromkeys(found))
