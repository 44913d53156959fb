"""A CogVideoX video diffusion model: its parts loaded by plain `from_pretrained`, and the few operations the method needs of them.

Latents are scaled as the transformer sees them (posterior mode × scaling factor); `velocity` is the network's
v-prediction v = √ᾱ·ε − √(1−ᾱ)·x₀ at a training time step t. Text is encoded as the pipeline does it: padded to the
model's length, never masked. CogVideoX1.5 joins two latent frames in a patch: an odd number of latents is padded in
front by the first, and the padding is dropped.

Legend: B batch, n frames of a clip, F C h w latent frames, channels, rows, columns, T text tokens, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel, T5Tokenizer

from components.core.errors import DataError, ParameterError
from components.models.pretrained import load_part, load_tokenizer, load_weights, read_json

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TextPiece:
    """A token that carries text: its place in the text encoder's sequence, and its characters `text[start:end]`, without white space."""

    index: int
    token: str
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Vdm:
    """A loaded CogVideoX; make it with `load_vdm`."""

    transformer: CogVideoXTransformer3DModel
    vae: AutoencoderKLCogVideoX
    text_encoder: T5EncoderModel
    tokenizer: T5Tokenizer
    scheduler: CogVideoXDDIMScheduler
    dtype: torch.dtype
    device: torch.device

    @property
    def patch_size(self) -> int:
        """Latent rows (and columns) of a patch."""
        return int(self.transformer.config.patch_size)

    @property
    def patch_size_t(self) -> int | None:
        """Latent frames of a patch; None where the model has no temporal patches (CogVideoX-5B)."""
        value = self.transformer.config.patch_size_t
        return None if value is None else int(value)

    @property
    def text_length(self) -> int:
        """Tokens of the text encoder's sequence, pads included."""
        return int(self.transformer.config.max_text_seq_length)

    @property
    def alphas_cumprod(self) -> Float[Tensor, " steps"]:
        """ᾱ of the training time steps, float64; the last is 0 (zero terminal SNR)."""
        return torch.as_tensor(self.scheduler.alphas_cumprod, dtype=torch.float64)

    def patch_grid(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(F, H, W) of the transformer's tokens for latents of (frames, rows, columns).

        Raises:
            ParameterError: patches do not divide rows or columns.
        """
        frames, rows, cols = latent_shape
        if rows % self.patch_size or cols % self.patch_size:
            raise ParameterError(
                f"latents of {rows} × {cols} are not made of patches of {self.patch_size}",
                source="height, width",
                remedy=f"choose multiples of {self.spatial_scale * self.patch_size} pixels",
            )
        return -(-frames // (self.patch_size_t or 1)), rows // self.patch_size, cols // self.patch_size

    @property
    def spatial_scale(self) -> int:
        """Pixels of a latent's side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode_video(
        self, frames: UInt8[np.ndarray, "n height width 3"] | UInt8[Tensor, "n height width 3"]
    ) -> Float[Tensor, "1 F C h w"]:
        """Posterior mode × scaling factor, in the model's dtype.

        Raises:
            DataError: frames that are not uint8 RGB, not 8k+1 in number (the decoder works on pairs of latents), or not
                whole latents.
        """
        video = torch.as_tensor(frames)
        if video.dtype != torch.uint8 or video.ndim != 4 or video.shape[-1] != 3:
            raise DataError(
                f"frames {video.dtype} {tuple(video.shape)}",
                source="encode_video",
                remedy="give uint8 [n, height, width, 3]",
            )
        count, height, width, _ = video.shape
        if count % 8 != 1 or height % self.spatial_scale or width % self.spatial_scale:
            problem = f"{count} frames of {height} × {width} pixels do not make whole latents"
            raise DataError(
                problem, source="encode_video", remedy=f"give 8k+1 frames, sides multiples of {self.spatial_scale}"
            )
        pixels = video.to(self.device, torch.float32).div_(127.5).sub_(1).permute(3, 0, 1, 2)[None].to(self.dtype)
        codes: Tensor = self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor
        return codes.permute(0, 2, 1, 3, 4).contiguous()

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "1 F C h w"]) -> UInt8[Tensor, "n height width 3"]:
        """Frames uint8 on the CPU."""
        codes = latents.permute(0, 2, 1, 3, 4).to(self.device, self.dtype) / self.vae.config.scaling_factor
        video: Tensor = self.vae.decode(codes).sample[0].float().add_(1).mul_(127.5).round_().clamp_(0, 255)
        return video.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu()

    def tokenize(self, text: str) -> list[TextPiece]:
        """The tokens of `text` that carry characters and fit the text encoder's length, in order."""
        return _pieces(self.tokenizer, text, self.text_length)

    def truncated(self, text: str) -> int:
        """Characters at the end of `text` that the text encoder never sees."""
        return _truncated(self.tokenizer, text, self.text_length)

    @torch.no_grad()
    def encode_text(self, text: str) -> Float[Tensor, "1 T D"]:
        """Embeddings of the whole padded sequence; pads are encoded and attended to, as in the pipeline."""
        tokens = self.tokenizer(
            text, padding="max_length", max_length=self.text_length, truncation=True, return_tensors="pt"
        )
        embeds: Tensor = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return embeds.to(self.dtype)

    def pad_latents(self, latents: Float[Tensor, "B F C h w"]) -> Float[Tensor, "B F2 C h w"]:
        """Whole temporal patches: the first latent frame is repeated in front."""
        missing = -latents.shape[1] % (self.patch_size_t or 1)
        return torch.cat([latents[:, :1].expand(-1, missing, -1, -1, -1), latents], dim=1) if missing else latents

    @torch.no_grad()
    def velocity(
        self, latents: Float[Tensor, "B F C h w"], timestep: int, embeds: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B F C h w"]:
        """One forward pass of the transformer: v of the latents at a training time step, float32."""
        grid = self.patch_grid((latents.shape[1], latents.shape[3], latents.shape[4]))
        padded = self.pad_latents(latents.to(self.device, self.dtype))
        output: Tensor = self.transformer(
            hidden_states=padded,
            encoder_hidden_states=embeds.to(self.device, self.dtype),
            timestep=torch.full((len(latents),), timestep, dtype=torch.int64, device=self.device),
            image_rotary_emb=self.rotary(grid),
            return_dict=False,
        )[0]
        return output[:, padded.shape[1] - latents.shape[1] :].float()

    def rotary(self, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor] | None:
        """The cosine and sine [S, head width] of the video tokens' rotary embedding; None for a model with added position embeddings."""
        config = self.transformer.config
        if not config.use_rotary_positional_embeddings:
            return None
        base = (config.sample_height // self.patch_size, config.sample_width // self.patch_size)
        return _rotary(grid, base, int(config.attention_head_dim), self.patch_size_t is not None, self.device)


@lru_cache(maxsize=4)
def _rotary(
    grid: tuple[int, int, int], base: tuple[int, int], width: int, sliced: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """1.5 counts positions from the corner; 5B stretches the grid over the largest centred box of its shape inside `base`."""
    frames, rows, cols = grid
    common: dict[str, Any] = {"embed_dim": width, "grid_size": (rows, cols), "temporal_size": frames, "device": device}
    if sliced:
        if rows > base[0] or cols > base[1]:
            raise ParameterError(
                f"{rows} × {cols} tokens a frame exceed the model's {base[0]} × {base[1]}",
                source="height, width",
                remedy="choose a smaller height and width",
            )
        cos, sin = get_3d_rotary_pos_embed(crops_coords=None, grid_type="slice", max_size=base, **common)
    else:
        cos, sin = get_3d_rotary_pos_embed(crops_coords=_centred_box((rows, cols), base), **common)
    return cos, sin


def _centred_box(grid: tuple[int, int], base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(top, left), (bottom, right) of the largest box of the grid's aspect ratio centred in `base` (rows, columns)."""
    rows, cols = grid
    taller = rows / cols > base[0] / base[1]
    box = (base[0], round(base[0] / rows * cols)) if taller else (round(base[1] / cols * rows), base[1])
    top, left = (round((whole - part) / 2.0) for whole, part in zip(base, box, strict=True))
    return (top, left), (top + box[0], left + box[1])


def load_vdm(
    folder: Path | str, dtype: str | torch.dtype = "bfloat16", device: str | torch.device | None = None
) -> Vdm:
    """Load a CogVideoX pipeline's parts.

    Args:
        folder: a text-to-video CogVideoX repository in the diffusers layout (a checkpoint or a tiny twin).
        dtype: `bfloat16`, `float32`, `float16`, or a torch dtype.
        device: the first CUDA device where there is one, else the CPU.

    With float32 on a GPU, convolutions leave TensorFloat-32 from then on in this process: its ten bits are not what was
    asked for.

    Raises:
        ParameterError: no such pipeline, another prediction type than v, or an unknown dtype.
        DataError: a part that cannot be read, has no safetensors, or lacks tensors or the vocabulary.
    """
    folder = Path(folder)
    number_format = _dtype(dtype)
    where = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    _check_pipeline(folder)
    if number_format == torch.float32 and where.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # PyTorch's default is True, unlike that of matrix products
    scheduler = load_part(CogVideoXDDIMScheduler, folder, "scheduler")
    tokenizer = load_tokenizer(T5Tokenizer, folder, "tokenizer")
    encoder = load_weights(T5EncoderModel, folder, "text_encoder", dtype=number_format, ignore_mismatched_sizes=True)
    vae = load_weights(AutoencoderKLCogVideoX, folder, "vae", torch_dtype=number_format)
    transformer = load_weights(CogVideoXTransformer3DModel, folder, "transformer", torch_dtype=number_format)
    if scheduler.config.prediction_type != "v_prediction":
        problem = f"prediction type {scheduler.config.prediction_type!r}"
        raise ParameterError(problem, source=f"{folder}/scheduler", remedy="use a CogVideoX that predicts v")
    if transformer.config.in_channels != vae.config.latent_channels:
        problem = f"{transformer.config.in_channels} input channels for {vae.config.latent_channels} latent channels"
        raise ParameterError(
            problem, source=f"{folder}/transformer", remedy="use a text-to-video CogVideoX, not image-to-video"
        )
    for module in (transformer, vae, encoder):
        module.eval().requires_grad_(False).to(where)
    return Vdm(transformer, vae, encoder, tokenizer, scheduler, number_format, where)


def _dtype(name: str | torch.dtype) -> torch.dtype:
    if isinstance(name, torch.dtype):
        return name
    if name not in _DTYPES:
        raise ParameterError(f"unknown dtype {name!r}", source="dtype", remedy=f"use one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _check_pipeline(folder: Path) -> None:
    """Refuse what does not say that it is a CogVideoX pipeline, before any weight is read."""
    remedy = "give a CogVideoX text-to-video repository in the diffusers layout"
    index, config = read_json(folder / "model_index.json"), read_json(folder / "transformer" / "config.json")
    if index is None or config is None:
        problem = "no diffusers pipeline: model_index.json or transformer/config.json is missing"
        raise ParameterError(problem, source=str(folder), remedy=remedy)
    found = (index.get("_class_name"), config.get("_class_name"))
    if not str(found[0]).startswith("CogVideoX") or found[1] != "CogVideoXTransformer3DModel":
        raise ParameterError(f"a pipeline of {found[0]} with {found[1]}", source=str(folder), remedy=remedy)


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str, length: int | None) -> list[TextPiece]:
    """Specials, pads and pieces without a visible character (a lone word start) are left out; spans lose their white space."""
    tokens = tokenizer(
        text,
        max_length=length,
        truncation=length is not None,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    names = tokenizer.convert_ids_to_tokens(tokens["input_ids"])
    found: list[TextPiece] = []
    spans = zip(names, tokens["offset_mapping"], tokens["special_tokens_mask"], strict=True)
    for index, (name, (start, end), special) in enumerate(spans):
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        if not special and name.strip("▁") and start < end:
            found.append(TextPiece(index, name, start, end))
    return found


def _truncated(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> int:
    whole, kept = _pieces(tokenizer, text, None), _pieces(tokenizer, text, length)
    if len(kept) == len(whole):
        return 0
    return len(text.rstrip()) - (kept[-1].end if kept else 0)
