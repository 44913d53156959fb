"""Tiny random twins of CogVideoX: the real classes in the real repository layout, small enough for a test.

Two layouts of the patch grid exist: `5b` (patches of one latent frame, resized rotary grid) and `1.5` (two latent
frames a patch, no patch bias, sliced rotary grid). Weights are drawn from a fixed seed with each class's own
initialization; two calls write equal bytes. 64 × 64 pixels and 17 frames are 5 latents of 8 × 8, which is 5 × 4 × 4
tokens (`5b`) or 3 × 4 × 4 (`1.5`).
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel, T5Tokenizer

SEED = 20260
LATENT_CHANNELS = 4
TEXT_LENGTH = 64
TEXT_WIDTH = 32
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
    "snr_shift_scale": 1.0,
}

_WORDS = (
    "a an and another are at away back ball behind big bird black blue bounces box camera car cat center circle clip "
    "corner cube direction disc dog does down falls fast for frame from front goes green grey hand happens he her his how in into is it "
    "jumps large left man moves moving near no object of off on one orange other out over passes person picks pink places purple pushes "
    "rectangle red right rises rolls rotates runs scene she shrinks slides slowly small speed spins square star static stays still stops "
    "swings that the then there they this to toward towards triangle turns two up upward video walks what when where which while white "
    "with woman yellow yes zooms"
)
_ENDINGS = ["ing", "ed", "er", "ly", "es", "s", "tion"]


def tiny_t5_tokenizer() -> T5Tokenizer:
    """A Unigram T5 tokenizer: whole words of motion captions, single characters for the rest of printable ASCII, `<unk>` beyond."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    characters = string.digits + string.ascii_letters + string.punctuation
    words = _WORDS.split()
    capitalized = [word.capitalize() for word in words]
    pieces = {"▁": -6.0}
    pieces |= {f"▁{word}": -8.0 - 0.001 * rank for rank, word in enumerate(dict.fromkeys([*words, *capitalized]))}
    pieces |= {ending: -9.0 - 0.001 * rank for rank, ending in enumerate(_ENDINGS) if ending not in characters}
    pieces |= {character: -12.0 - 0.001 * rank for rank, character in enumerate(characters)}
    return T5Tokenizer(vocab=[*special, *pieces.items()], extra_ids=0, model_max_length=TEXT_LENGTH)


def t5_encoder(vocabulary: int, width: int, feed_forward: int, heads: int, dropout: float = 0.1) -> T5EncoderModel:
    """A T5 encoder of two layers with heads of 16, with the class's own initialization."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=16,
        d_ff=feed_forward,
        num_layers=2,
        num_heads=heads,
        dropout_rate=dropout,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config)


def _vae() -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_height=64,
        sample_width=64,
        scaling_factor=3.26,  # latents of random weights get unit variance, as a trained model's have
    )


def _transformer(variant: Literal["5b", "1.5"]) -> CogVideoXTransformer3DModel:
    layout: dict[str, Any] = (
        {"patch_size_t": None, "patch_bias": True} if variant == "5b" else {"patch_size_t": 2, "patch_bias": False}
    )
    return CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        time_embed_dim=32,
        text_embed_dim=TEXT_WIDTH,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=17,
        patch_size=2,
        max_text_seq_length=TEXT_LENGTH,
        use_rotary_positional_embeddings=True,
        **layout,
    )


def make_tiny_cogvideox(folder: Path, variant: Literal["5b", "1.5"] = "5b") -> Path:
    """Write a tiny CogVideoX pipeline (safetensors only) into `folder`; returns the folder.

    Args:
        folder: made if it is not there.
        variant: `5b` for CogVideoX-5B's patch layout, `1.5` for CogVideoX1.5-5B's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        tokenizer = tiny_t5_tokenizer()
        pipeline = CogVideoXPipeline(
            tokenizer=tokenizer,
            text_encoder=t5_encoder(len(tokenizer), TEXT_WIDTH, feed_forward=64, heads=2),
            vae=_vae(),
            transformer=_transformer(variant),
            scheduler=CogVideoXDDIMScheduler(**SCHEDULER),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return Path(folder)
