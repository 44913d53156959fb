"""The small model's network: CogVideoX's transformer, one token per latent, trained jointly with its T5.

Also the loss (v-prediction on the real schedule, whose last step has no signal) and the pipeline's folder that
`load_vdm` opens.
Legend: B batch, F C y x latent frames, channels, rows, columns, T text tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.models.video.cogvideox import SCHEDULER, t5_encoder
from components.synthetic.model.recipe import Architecture
from components.synthetic.model.tokenizer import LENGTH, make_tokenizer
from components.synthetic.model.vae import CHANNELS, SPATIAL, TEMPORAL, make_vae

SIZE = 48  # pixels of a side
TIME_WIDTH, TEXT_WIDTH = 32, 64


def latent_grid(num_frames: int) -> tuple[int, int, int]:
    """Frames, rows and columns of the latents."""
    return (num_frames - 1) // TEMPORAL + 1, SIZE // SPATIAL, SIZE // SPATIAL


class Denoiser(nn.Module):
    """What is trained: the transformer and the text encoder; `forward` predicts v."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.transformer = _transformer(architecture)
        self.text_encoder = t5_encoder(len(make_tokenizer()), TEXT_WIDTH, feed_forward=128, heads=4, dropout=0.0)
        frames, *places = latent_grid(architecture.num_frames)
        cos, sin = get_3d_rotary_pos_embed(
            embed_dim=architecture.head_width,
            crops_coords=((0, 0), tuple(places)),
            grid_size=tuple(places),
            temporal_size=frames,
        )
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


def _transformer(architecture: Architecture) -> CogVideoXTransformer3DModel:
    _, rows, columns = latent_grid(architecture.num_frames)
    return CogVideoXTransformer3DModel(
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
