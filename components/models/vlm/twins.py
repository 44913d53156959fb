"""What the tiny random twins of vision-language models share: a byte-level tokenizer, a small LLM, writing the folder.

A twin is the family's real class in the real repository's layout with about 250k parameters. All have grouped-query
attention. Any text works, as the tokenizer is a byte-level BPE. Weights are drawn from a fixed seed with the class's
own initialization; two calls write equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import GenerationConfig, Qwen2Tokenizer

SEED = 20261
_WORDS = """
    a an and another are away back ball behind bounces camera circle clip color correct describe does down fast
    first for from green grows happens in into is it its jumps left letter motion move moves moving no object of
    on only option orange order out pans person question red right rolls rotates scene second shrinks slowly
    spins square stands still the then third this times to towards triangle up video what when where which while
    white with yellow yes zooms"""
_COMMON = [*(f"Ġ{word}" for word in _WORDS.split()), *(word.capitalize() for word in _WORDS.split())]
_TEMPLATE = """\
{%- for message in messages -%}
«system»{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '«image»' }}
{%- elif part.type == 'video' -%}{{ '«video»' }}
{%- elif «text» -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
_SYSTEM = """\
{%- if loop.first and message.role != 'system' -%}{{ '<|im_start|>system\\n«prompt»<|im_end|>\\n' }}{%- endif -%}
"""


def chat_template(image: str, video: str, text: str = "part.type == 'text'", system: str = "") -> str:
    """Return what an official template renders, turn by turn.

    `image` and `video` are written for one, `text` is the template's condition for a part of text, `system` the prompt
    that stands first where a conversation has none.
    """
    first = _SYSTEM.replace("«prompt»", system) if system else ""
    template = _TEMPLATE.replace("«system»", first).replace("«text»", text)
    return template.replace("«image»", image).replace("«video»", video)


def small_llm(tokenizer: Any, **rope: Any) -> dict[str, Any]:
    """Return the configuration of a twin's language model; `rope` adds to its rotary embedding's parameters."""
    ids = tokenizer.convert_tokens_to_ids
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": ids("<|endoftext|>"), "eos_token_id": ids("<|im_end|>")}
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "max_position_embeddings": 8192}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    rotary = {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, **rope}}
    # at the real 0.02 so narrow a model attends to everything alike
    return {**tokens, **sizes, **heads, **rotary, "initializer_range": 0.06}


def byte_tokenizer(
    control: str,
    end: str,
    template: str,
    roles: dict[str, str] | None = None,
    words: Sequence[str] = tuple(_COMMON),
) -> Qwen2Tokenizer:
    """Return a byte-level BPE: 256 bytes, merges that build `words` from the left, then the control tokens.

    Words are as byte-level pieces are written: `Ġ` in a space's place.
    """
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in words:
        for k in range(1, len(word)):
            if word[: k + 1] not in pieces:
                merges.append((word[:k], word[k]))
                pieces.append(word[: k + 1])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    named = {"eos_token": end, "pad_token": "<|endoftext|>", "extra_special_tokens": roles or {}}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=8192, **named)
    tokenizer.add_tokens(control.split(), special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


def write_twin(
    folder: Path,
    model_class: Any,
    config: Any,
    tokenizer: Any,
    files: dict[str, Any],
    sampling: dict[str, Any],
    seed: int = SEED,
) -> Path:
    """Write a twin's weights, tokenizer, further files and generation settings into `folder`, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    tokens = {"bos_token_id": text, "pad_token_id": text, "eos_token_id": [turn, text]}
    model.generation_config = GenerationConfig(**tokens, **sampling)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return folder
