"""Pictures of a captured sample: the reconstruction strip (supplement Fig. 5) and the heads' v2v thumbnails (Figs. 2 and 4)."""

from __future__ import annotations

import io

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from components.attention_capture.sample import Captured
from components.head_selection.scores import choose
from components.models.vdm import Vdm

_FRAMES = 6
_TILE = 96
_BAR = 16


def reconstruction_strip(
    vdm: Vdm, frames: UInt8[Tensor, "n H W 3"], trajectory: Float[Tensor, "N1 F C h w"], captured: Captured
) -> tuple[bytes, float]:
    """PNG with a row each of the original frames, the inverted noise and the reconstruction (decoded), and the relative latent error."""
    clean = trajectory[:1].float()
    error = float((captured.reconstruction.float().cpu() - clean).norm() / clean.norm())
    rows = [frames, vdm.decode_latents(trajectory[-1:]), vdm.decode_latents(captured.reconstruction)]
    names = ["original", "inverted noise", f"reconstruction, latent error {error:.2f}"]
    strips = [_labelled(name, _row(row.numpy())) for name, row in zip(names, rows, strict=True)]
    return _png(np.concatenate(strips)), error


def _row(frames: UInt8[np.ndarray, "n H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    chosen = np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).round().astype(int)
    scale = max(1, _TILE // frames.shape[1]) if frames.shape[1] < _TILE else 1
    tiles = [np.pad(frames[index].repeat(scale, 0).repeat(scale, 1), ((1, 1), (1, 1), (0, 0)), constant_values=255) for index in chosen]
    return np.concatenate(tiles, axis=1)


def _labelled(text: str, picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H w 3"]:
    bar = Image.new("RGB", (picture.shape[1], _BAR), "white")
    ImageDraw.Draw(bar).text((3, 2), text, fill="black")
    return np.concatenate([np.asarray(bar), picture])


def head_thumbnails(captured: Captured) -> bytes:
    """PNG: pooled v2v maps of the first and the last three heads by score, each on its own scale, frame-major."""
    choice = choose(captured.statistics)
    order = torch.argsort(choice.score, descending=True, stable=True).tolist()
    shown = order if len(order) <= _FRAMES else [*order[:3], *order[-3:]]
    tiles = []
    for head in shown:
        map_nn = captured.reductions.thumbnail_hnn[head].double()
        grey = (255 * map_nn / map_nn.max().clamp_min(1e-12)).round().to(torch.uint8).numpy()
        scale = max(1, 2 * _TILE // len(grey))
        tile = np.pad(grey.repeat(scale, 0).repeat(scale, 1), 1, constant_values=255)
        tiles.append(_labelled(f"head {head}  {float(choice.score[head]):+.2f}", np.repeat(tile[..., None], 3, axis=2)))
    return _png(np.concatenate(tiles, axis=1))


def _png(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", optimize=False)
    return buffer.getvalue()
