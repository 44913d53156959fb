"""The small model: its sizes and recipe, tokenizer, network, loss, and the pipeline's folder that `load_vdm` opens.

The network is CogVideoX's transformer, one token per latent, trained jointly with its T5; v-prediction on the real
schedule, whose last step has no signal. The tokenizer knows the words of the `scenes` captions: a word is a token
(`▁red`), so that character spans are whole words. Anything else, a capital or a full stop included, is `<unk>`, which
training never shows: a text with unknown words gets a prior from its known ones at best.
Legend: B batch, F C y x latent frames, channels, rows, columns, T text tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from jaxtyping import Float, Int
from pydantic import Field, field_validator
from torch import Tensor, nn
from transformers import T5Tokenizer

from components.core.records import Record
from components.models.video.cogvideox import FRAMES, SCHEDULER, t5_encoder
from components.synthetic.recipe import Optimization
from components.synthetic.scenes import VOCABULARY
from components.synthetic.vdm.vae import CHANNELS, SPATIAL, TEMPORAL, make_vae

SIZE = 48  # pixels of a side
TRAINING_SEEDS = range(7_340_000, 7_341_000)  # of `scenes`: reserved, no test, smoke or bench may use one
VALIDATION_SEED = TRAINING_SEEDS[-1]  # its clips are never trained on: the losses on the card
LENGTH = 16  # text tokens: the longest caption has 14 words; `</s>` follows
TIME_WIDTH, TEXT_WIDTH = 32, 64


class Architecture(Record):
    """Sizes of the network and of the clips that it is trained on."""

    layers: int = Field(default=4, ge=1, description="blocks of the transformer")
    heads: int = Field(default=8, ge=1, description="attention heads of a block")
    head_width: int = Field(default=16, ge=16, multiple_of=16, description="width of a head")
    num_frames: int = Field(
        default=17, ge=FRAMES.fewest, description="frames of a clip, 8k+1: an odd number of latents"
    )

    @field_validator("num_frames")
    @classmethod
    def _whole_chunks(cls, value: int) -> int:
        if FRAMES.largest(value) != value:
            reason = "an even number of latents decodes to more frames"
            raise ValueError(f"{value} frames: choose 8k+1, as 9, 17 or 33 ({reason})")
        return value


class Recipe(Optimization, Architecture):
    """What decides a training's result."""

    muon_rate: float = Field(default=0.02, gt=0, description="peak of Muon, for the matrices of the blocks")
    learning_rate: float = Field(default=1.5e-3, gt=0, description="peak of AdamW, for all else")
    caption_dropout: float = Field(default=0.1, ge=0, lt=1, description="share of empty captions")
    seed: int = Field(default=0, ge=0, lt=999, description="of the initialization and of the scenes")
    validation_clips: int = Field(default=64, ge=5, description="unseen clips that the card's losses are measured on")


def make_tokenizer() -> T5Tokenizer:
    """Return the closed vocabulary; offsets and padding work as with a real T5 tokenizer."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [(f"▁{word}", -2.0 - 0.001 * rank) for rank, word in enumerate(VOCABULARY)]
    return T5Tokenizer(vocab=[*special, *pieces], extra_ids=0, model_max_length=LENGTH)


def latent_grid(num_frames: int) -> tuple[int, int, int]:
    """Frames, rows and columns of the latents."""
    return (num_frames - 1) // TEMPORAL + 1, SIZE // SPATIAL, SIZE // SPATIAL


class Denoiser(nn.Module):
    """What is trained: the transformer and the text encoder; `forward` predicts v."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        frames, rows, columns = latent_grid(architecture.num_frames)
        self.transformer = CogVideoXTransformer3DModel(
            num_attention_heads=architecture.heads,
            attention_head_dim=architecture.head_width,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            time_embed_dim=TIME_WIDTH,
            text_embed_dim=TEXT_WIDTH,
            num_layers=architecture.layers,
            sample_width=columns,
            sample_height=rows,
            sample_frames=architecture.num_frames,
            temporal_compression_ratio=TEMPORAL,
            patch_size=1,
            max_text_seq_length=LENGTH,
            use_rotary_positional_embeddings=True,
        )
        self.text_encoder = t5_encoder(len(make_tokenizer()), TEXT_WIDTH, feed_forward=128, heads=4, dropout=0.0)
        places = (rows, columns)
        cos, sin = get_3d_rotary_pos_embed(architecture.head_width, ((0, 0), places), places, temporal_size=frames)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(
        self, noisy_BFCyx: Float[Tensor, "B F C y x"], timesteps_B: Int[Tensor, " B"], ids_BT: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B F C y x"]:
        """Return v of noisy latents at training time steps under token ids, pads attended to as in the pipeline."""
        velocity: Tensor = self.transformer(
            hidden_states=noisy_BFCyx,
            encoder_hidden_states=self.text_encoder(ids_BT)[0],
            timestep=timesteps_B,
            image_rotary_emb=(self.cos, self.sin),
            return_dict=False,
        )[0]
        return velocity


def make_denoiser(seed: int, architecture: Architecture | None = None) -> Denoiser:
    """Return a fresh one, by default of the default sizes; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Denoiser(architecture or Architecture())


def noise_levels() -> Float[Tensor, " steps"]:
    """ᾱ of the 1000 training time steps, float32; the last is 0."""
    return torch.as_tensor(CogVideoXDDIMScheduler(**SCHEDULER).alphas_cumprod, dtype=torch.float32)


def velocity_loss(
    model: nn.Module,
    clean_BFCyx: Float[Tensor, "B F C y x"],
    noise_BFCyx: Float[Tensor, "B F C y x"],
    timesteps_B: Int[Tensor, " B"],
    ids_BT: Int[Tensor, "B T"],
    alpha_bar: Float[Tensor, " steps"],
) -> Float[Tensor, " B"]:
    """Mean squared error of v = √ᾱ·ε − √(1−ᾱ)·x₀ per clip."""
    level = alpha_bar[timesteps_B][:, None, None, None, None]
    noisy = level.sqrt() * clean_BFCyx + (1 - level).sqrt() * noise_BFCyx
    target = level.sqrt() * noise_BFCyx - (1 - level).sqrt() * clean_BFCyx
    error: Tensor = model(noisy, timesteps_B, ids_BT).float() - target
    return error.square().mean(dim=(1, 2, 3, 4))


def save_pipeline(model: Denoiser, folder: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write the whole pipeline as a CogVideoX repository, weights in `dtype` (safetensors only); returns the folder."""
    copy = make_denoiser(0, model.architecture)
    copy.load_state_dict(model.state_dict())
    pipeline = CogVideoXPipeline(
        tokenizer=make_tokenizer(),
        text_encoder=copy.text_encoder.to(dtype),
        vae=make_vae(SIZE).to(dtype),
        transformer=copy.transformer.to(dtype),
        scheduler=CogVideoXDDIMScheduler(**SCHEDULER),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return Path(folder)
