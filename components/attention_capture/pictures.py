"""Pictures of a captured sample: the reconstruction strip (supplement Fig. 5) and the heads' v2v maps (Figs. 2 and 4).

They are transparent where nothing is drawn and lettered in a middle grey, so that they fit a light and a dark page.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from components.attention_capture.sample import Captured
from components.core.records import head_name
from components.head_selection.scores import choose
from components.media.sampling import spread
from components.models.video.interface import VideoModel
from components.pages.figures import heat_image

_COLUMNS = 6
_TILE = 154  # pixels: six columns are as wide as the pages' figures
_GAP = 6
_LABEL = 22
_INK = (120, 129, 141, 255)


def reconstruction_strip(
    vdm: VideoModel, frames: UInt8[Tensor, "n H W 3"], trajectory: Float[Tensor, "N1 F C h w"], captured: Captured
) -> tuple[bytes, float]:
    """Return a PNG with rows of original frames, inverted noise and reconstruction; and the relative latent error."""
    clean = trajectory[:1].float()
    error = float((captured.reconstruction.float().cpu() - clean).norm() / clean.norm())
    rows = {
        "original": frames,
        "inverted noise": vdm.decode_latents(trajectory[-1:]),
        f"reconstruction, latent error {error:.2f}": vdm.decode_latents(captured.reconstruction),
    }
    parts = []
    for name, row in rows.items():
        tiles = _sheet(_tiles(row.numpy()))
        parts += [_label(name, tiles.width), tiles]
    return _png(_sheet(parts, down=True)), error


def _tiles(frames: UInt8[np.ndarray, "n H W 3"]) -> list[Image.Image]:
    """Return six frames, enlarged by a whole factor or reduced to a tile's width."""
    tiles = []
    for index in spread(len(frames), min(_COLUMNS, len(frames))):
        tile, factor = Image.fromarray(frames[index]), max(1, _TILE // frames.shape[2])
        tile = tile.resize((factor * tile.width, factor * tile.height), Image.Resampling.NEAREST)
        tile.thumbnail((_TILE, 10 * _TILE), Image.Resampling.LANCZOS)
        tiles.append(tile)
    return tiles


def head_thumbnails(captured: Captured) -> bytes:
    """Return a PNG with the first and the last three heads by score, each map on its own scale.

    Above, the pooled v2v map, frame-major; below, the exact F × F blocks of some places (row: the frame that looks,
    column: looked at).
    """
    choice = choose(captured.statistics)
    order = torch.argsort(choice.score, descending=True, stable=True).tolist()
    shown = order if len(order) <= _COLUMNS else [*order[:3], *order[-3:]]
    tiles = []
    for head in shown:
        pooled = _map(captured.thumbnail_hnn[head])
        blocks = _map(torch.cat(list(captured.block_hBZZ[head]), dim=1))
        label = _label(f"head {head_name(choice.names[head])}   {float(choice.score[head]):+.2f}", pooled.width)
        tiles.append(_sheet([label, pooled, blocks], down=True))
    return _png(_sheet(tiles))


def _map(map_yx: Float[Tensor, "y x"]) -> Image.Image:
    """Return a map in the pages' colours, 0 to its largest value; unsmoothed, and a tile wide if its cells fit."""
    picture = heat_image(map_yx.double().numpy(), float(map_yx.max()))
    scale = max(1.0, _TILE / picture.width)
    return picture.resize((round(scale * picture.width), round(scale * picture.height)), Image.Resampling.NEAREST)


def _label(text: str, width: int) -> Image.Image:
    picture = Image.new("RGBA", (width, _LABEL))
    ImageDraw.Draw(picture).text((0, 4), text, fill=_INK, font=ImageFont.load_default(13))
    return picture


def _sheet(parts: Sequence[Image.Image], *, down: bool = False) -> Image.Image:
    """Return pictures beside each other, or one below the other."""
    lengths = [part.height if down else part.width for part in parts]
    long, wide = sum(lengths) + _GAP * (len(parts) - 1), max(part.width if down else part.height for part in parts)
    sheet = Image.new("RGBA", (wide, long) if down else (long, wide))
    place = 0
    for part, length in zip(parts, lengths, strict=True):
        sheet.paste(part, (0, place) if down else (place, 0))
        place += length + _GAP
    return sheet


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()
