"""The picture of `bench.prior`: frames, mask, and the maps of the trained and the random model on three clips.

The first clips, not hand-picked. Cells at their size, unsmoothed, all heads and words; each map on a scale of its own
from 0 to its maximum over the clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from bench.drawing import HEAT, INK, SOFT, bare, new_figure, save
from bench.prior_configs import ALL, TWIN, Extracted
from components.core.artifacts import PriorLine
from components.pages.samples import Stored, nearest_frame

CLIPS = 3
_MASK = ListedColormap([(0.93, 0.93, 0.91), (0.65, 0.68, 0.72), (0.04, 0.48, 0.46)])
_NOTE = (
    "The first clips, not picked. Mask: green moves, grey stays. Maps: all heads and words, cells unsmoothed, "
    "from 0 (dark) to the largest value in the clip."
)


def draw(trained: Extracted, twin: Extracted, auc: Mapping[str, Mapping[str, float]], target: Path) -> Path:
    """Write the figure; `auc` holds AUC_obj by sample of both models, by their configuration's name."""
    stored, lines = Stored(trained.store), sorted(trained.priors.lines, key=lambda line: line.sample.uid)[:CLIPS]
    random = {line.sample.id: line for line in twin.priors.lines}
    figure = new_figure(3.75)
    outer = figure.add_gridspec(1, CLIPS, left=0.088, right=0.995, top=0.86, bottom=0.15, wspace=0.03)
    for column, line in enumerate(lines):
        indices = [nearest_frame(line.video, *cell) for cell in line.grid.times]
        maps = [stored.prior(one).mean(0) for one in (line, random[line.sample.id])]
        rows = [
            _Row("frames", stored.frames(line.video, indices)),
            _Row("mask", _mask(stored, line)[indices], _MASK, 2),
        ]
        rows += [
            _Row(name, map_FHW, HEAT, map_FHW.max())
            for name, map_FHW in zip(("trained", "random twin"), maps, strict=True)
        ]
        _clip(figure, outer[column], rows, named=column == 0)
        measured = ", ".join(
            f"{name} {auc[one.name][line.sample.id]:.2f}" for name, one in (("trained", ALL), ("random twin", TWIN))
        )
        place = outer[column].get_position(figure)
        figure.text(place.x0, place.y1 + 0.025, _wrapped(line.sample.response), fontsize=9, color=INK, va="bottom")
        figure.text(place.x0, place.y0 - 0.025, f"AUC_obj: {measured}", fontsize=9, color=INK, va="top")
    figure.text(0.088, 0.015, _NOTE, fontsize=8.5, color=SOFT, va="bottom")
    return save(figure, target)


@dataclass(frozen=True)
class _Row:
    """A row of pictures, one per frame of the grid; with colours, values from 0 to `top`."""

    name: str
    pictures: np.ndarray
    colours: ListedColormap | None = None
    top: float | None = None


def _clip(figure: Figure, place: SubplotSpec, rows: Sequence[_Row], *, named: bool) -> None:
    """Draw one clip's rows, with their names at the left where wanted."""
    count = len(rows[0].pictures)
    block = place.subgridspec(len(rows), count, hspace=0.05, wspace=0.05)
    for index, row in enumerate(rows):
        for f, picture in enumerate(row.pictures):
            axes = figure.add_subplot(block[index, f])
            axes.imshow(picture, cmap=row.colours, vmin=0, vmax=row.top, interpolation="nearest")
            bare(axes, row.name if named and f == 0 else "", offset=0.12)


def _mask(stored: Stored, line: PriorLine) -> np.ndarray:
    """Return 0 for background, 1 for an object that stays, 2 for the mover, for every frame of the clip."""
    assert line.mask is not None  # the set carries them
    mask = stored.tensors(line.mask)
    kinds: np.ndarray = np.where(mask["mover"] > 0, 2, (mask["objects"] > 0).astype(int))
    return kinds


def _wrapped(text: str, width: int = 48) -> str:
    """Break a text into at most two lines."""
    if len(text) <= width:
        return text
    cut = text.rfind(" ", 0, width)
    return f"{text[:cut]}\n{text[cut + 1 :]}"
