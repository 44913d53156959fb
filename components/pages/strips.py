"""Strips of one clip: frames, ground truth, the prior of its strongest words, and the VLM's maps of the same words.

Legend: T words, F H W the prior's grid; cells are drawn at their true size, one colour scale per row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from components.core.artifacts import PriorLine, VlmLine
from components.media.sampling import spread
from components.pages.figures import Cell, StripRow, heat, photo, raw, scale_bar, strip
from components.pages.stored import Stored, nearest_frame, words

_DENSITY = "× uniform"
COLUMNS = 6


def sample_strip(material: Stored, line: PriorLine, seen: Sequence[tuple[str, VlmLine]]) -> Markup:
    """Return six frames of a clip, their mask, the prior of its three strongest words, and the VLM's maps of these."""
    prior_TFHW = material.prior(line)
    count = prior_TFHW.shape[1]
    cells = spread(count, min(COLUMNS, count))
    indices = [nearest_frame(line.video, *line.grid.times[f]) for f in cells]
    frames = material.frames(line.video, indices)
    rows = [
        StripRow(
            "frames",
            [Cell(photo(frame), smooth=True, label=f"frame {i}") for frame, i in zip(frames, indices, strict=True)],
        )
    ]
    if line.mask is not None:
        rows.append(_mask_row(material.tensors(line.mask), indices))
    named = words(line, len(prior_TFHW))
    top = sorted(range(len(named)), key=lambda t: (-named[t][1], t))[:3]
    rows += [map_row(f"“{named[t][0]}”", "prior", prior_TFHW[t], line, cells) for t in sorted(top)]
    rows += _vlm_rows(material, line, seen, sorted(top), cells)
    times = [f"{line.video.times[i]:.2f} s" for i in indices]
    return strip(rows, times, line.video.width, line.video.height)


def _mask_row(mask: dict[str, np.ndarray], indices: Sequence[int]) -> StripRow:
    colours = np.array([(38, 42, 52), (112, 120, 134), (45, 212, 191)], np.uint8)
    kinds = np.where(mask["mover"] > 0, 2, (mask["objects"] > 0).astype(int))
    step = max(1, kinds.shape[2] // 160)
    cells = [Cell(photo(colours[kinds[i, ::step, ::step]]), label=f"mask of frame {i}") for i in indices]
    key = raw(
        '<span class="unit"><span class="pair"><i class="swatch mover"></i>moves</span> '
        '<span class="pair"><i class="swatch still"></i>stays</span></span>'
    )
    return StripRow("ground truth", cells, key)


def map_row(
    name: str,
    kind: str,
    map_FHW: np.ndarray,
    line: PriorLine,
    cells: Sequence[int],
    top: float = 0.0,
    valid_FHW: np.ndarray | None = None,
) -> StripRow:
    """Return a map at the grid's frames `cells`, 0 to `top` (default: the largest value shown), unseen cells veiled."""
    top = top or float(map_FHW[list(cells)].max())
    unseen = [None if valid_FHW is None else ~valid_FHW[f] for f in cells]
    pictures = [
        Cell(heat(map_FHW[f], top), line.grid.box, hidden, label=f"{kind} {name}, cell {f}")
        for f, hidden in zip(cells, unseen, strict=True)
    ]
    return StripRow(name, pictures, scale_bar(top, f"{kind}, {_DENSITY}"))


def _vlm_rows(
    material: Stored, line: PriorLine, seen: Sequence[tuple[str, VlmLine]], rows: Sequence[int], cells: Sequence[int]
) -> list[StripRow]:
    """Return the VLM's maps of the same words, on one scale."""
    found = [(name, *vlm_map(material, one, rows)) for name, one in seen if one.vlm_map is not None]
    top = max((float(map_FHW[list(cells)].max()) for _, map_FHW, _ in found), default=0.0)
    return [map_row(name, "these words", map_FHW, line, cells, top, valid_FHW) for name, map_FHW, valid_FHW in found]


def vlm_map(material: Stored, line: VlmLine, rows: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the VLM's map [F, H, W], density relative to uniform, and the cells it saw.

    The map is the mean over those `rows` that have a counterpart in the VLM.
    """
    assert line.vlm_map is not None
    found = material.tensors(line.vlm_map)
    map_TFHW, valid_FHW = found["map"].astype(np.float64), found["valid"].astype(bool)
    covered = np.nonzero(found["covered"])[0].tolist() if "covered" in found else list(range(len(map_TFHW)))
    usable = [t for t in covered if rows is None or t in rows] or covered or [0]
    map_FHW = np.where(valid_FHW, map_TFHW[usable].mean(0), 0.0)
    mean = map_FHW[valid_FHW].mean() if valid_FHW.any() else 0.0
    return map_FHW / (mean or 1.0), valid_FHW
