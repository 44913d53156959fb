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
from components.models.video.cogvideox import Vdm

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
    tiles = [
        np.pad(frames[index].repeat(scale, 0).repeat(scale, 1), ((1, 1), (1, 1), (0, 0)), constant_values=255)
        for index in chosen
    ]
    return np.concatenate(tiles, axis=1)


def _labelled(text: str, picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H w 3"]:
    bar = Image.new("RGB", (picture.shape[1], _BAR), "white")
    ImageDraw.Draw(bar).text((3, 2), text, fill="black")
    return np.concatenate([np.asarray(bar), picture])


def head_thumbnails(captured: Captured) -> bytes:
    """PNG: the first and the last three heads by score, each picture on its own scale.

    Above, the pooled v2v map, frame-major; below, the exact F × F blocks of some places (row: the frame that looks,
    column: looked at).
    """
    choice = choose(captured.statistics)
    order = torch.argsort(choice.score, descending=True, stable=True).tolist()
    shown = order if len(order) <= _FRAMES else [*order[:3], *order[-3:]]
    tiles = []
    for head in shown:
        pooled = _grey(captured.reductions.thumbnail_hnn[head], 2 * _TILE)
        blocks = _grey(torch.cat(list(captured.reductions.block_hBFF[head]), dim=1), pooled.shape[1])
        width = max(pooled.shape[1], blocks.shape[1])
        tile = np.concatenate(
            [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=255) for part in (pooled, blocks)]
        )
        tiles.append(_labelled(f"head {head}  {float(choice.score[head]):+.2f}", np.repeat(tile[..., None], 3, axis=2)))
    return _png(np.concatenate(tiles, axis=1))


def _grey(map_yx: Float[Tensor, "y x"], width: int) -> UInt8[np.ndarray, "h w"]:
    """Black for 0, white for the largest value; whole pixels a cell, at most `width` wide where the cells fit, and a white rim."""
    grey = (255 * map_yx.double() / map_yx.max().double().clamp_min(1e-12)).round().to(torch.uint8).numpy()
    scale = max(1, (width - 2) // grey.shape[1])
    return np.pad(grey.repeat(scale, 0).repeat(scale, 1), 1, constant_values=255)


def _png(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", optimize=False)
    return buffer.getvalue()
