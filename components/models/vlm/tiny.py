"""Tiny random twins of Qwen2.5-VL and InternVL3: the real classes in the real repository layout, about 250k parameters each.

Both have what makes the real ones hard: grouped-query attention, Qwen's windowed vision blocks, frame pairs and M-RoPE,
InternVL's pixel shuffle and text between frames; Qwen's embeddings are tied (as in 3B), InternVL's are not. The
tokenizer is a byte-level BPE, so any text works. Weights are drawn from a fixed seed with each class's own
initialization; two calls write equal bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)

SEED = 20261
_PATCH = 14
_WORDS = """a an and another are away back ball behind bounces camera circle clip color correct describe does down fast first for from green
    grows happens in into is it its jumps left letter motion move moves moving no object of on only option orange order out pans person
    question red right rolls rotates scene second shrinks slowly spins square stands still the then third this times to towards triangle
    up video what when where which while white with yellow yes zooms"""
_QWEN_CONTROL = """<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
    <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"""
_INTERN_CONTROL = """<|endoftext|> <|im_start|> <|im_end|> <img> </img> <IMG_CONTEXT> <quad> </quad> <ref> </ref> <box> </box>
    <video>"""

# What the official templates render, turn by turn.
_QWEN_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part.type == 'video' -%}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in part -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
_INTERN_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<IMG_CONTEXT>\\n' }}
{%- elif part.type == 'video' -%}{{ '<video>\\n' }}
{%- elif part.type == 'text' -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def make_tiny_qwen2_5_vl(folder: Path) -> Path:
    """Write a tiny Qwen2.5-VL into `folder` (made if it is not there); returns the folder."""
    tokenizer = _tokenizer(_QWEN_CONTROL, "<|endoftext|>", _QWEN_TEMPLATE)
    ids = tokenizer.convert_tokens_to_ids
    text = _llm(len(tokenizer)) | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": _PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 4 * _PATCH,
        "fullatt_block_indexes": [1],
        "out_hidden_size": text["hidden_size"],
    }
    tokens = {f"{name}_token_id": ids(f"<|{name}_pad|>") for name in ("image", "video")}
    edges = {f"vision_{edge}_token_id": ids(f"<|vision_{edge}|>") for edge in ("start", "end")}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens, **edges)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": _PATCH,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    sampling = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 1e-6}
    return _write(
        folder, Qwen2_5_VLForConditionalGeneration, config, tokenizer, {"preprocessor_config.json": processor}, sampling
    )


def make_tiny_internvl3(folder: Path) -> Path:
    """Write a tiny InternVL3 in its transformers form into `folder` (made if it is not there); returns the folder."""
    roles = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _tokenizer(_INTERN_CONTROL, "<|im_end|>", _INTERN_TEMPLATE, roles)
    ids = tokenizer.convert_tokens_to_ids
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}}
    text = (
        _llm(len(tokenizer))
        | rope
        | {"model_type": "qwen2", "bos_token_id": ids("<|endoftext|>"), "eos_token_id": ids("<|im_end|>")}
    )
    size = 8 * _PATCH
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "attention_bias": True,
        "image_size": [size, size],
        "patch_size": [_PATCH, _PATCH],
    }
    config = InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<IMG_CONTEXT>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    pixels = {
        "processor_class": "InternVLProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    files = {
        "preprocessor_config.json": pixels
        | {"image_processor_type": "GotOcr2ImageProcessorFast", "crop_to_patches": False},
        "video_preprocessor_config.json": pixels | {"video_processor_type": "InternVLVideoProcessor"},
        "processor_config.json": {"image_seq_length": 16, "processor_class": "InternVLProcessor"},
    }
    return _write(folder, InternVLForConditionalGeneration, config, tokenizer, files, {})


def _llm(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "initializer_range": 0.06,  # at the real 0.02 so narrow a model attends to everything alike
    }


def _tokenizer(control: str, end: str, template: str, roles: dict[str, str] | None = None) -> Qwen2Tokenizer:
    """Byte-level BPE: 256 bytes, merges that build common words from the left, then the control tokens."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = _WORDS.split()
    merges: list[tuple[str, str]] = []
    for word in [*(f"Ġ{word}" for word in words), *(word.capitalize() for word in words)]:
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


def _write(
    folder: Path, model_class: Any, config: Any, tokenizer: Any, files: dict[str, Any], sampling: dict[str, Any]
) -> Path:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = model_class(config)
    ids = tokenizer.convert_tokens_to_ids
    model.generation_config = GenerationConfig(
        bos_token_id=ids("<|endoftext|>"),
        pad_token_id=ids("<|endoftext|>"),
        eos_token_id=[ids("<|im_end|>"), ids("<|endoftext|>")],
        **sampling,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return folder
