"""The picture of `bench.prior`: the first three clips, not hand-picked; frames, mask, and the map of the trained and the random model.

Cells at their size, unsmoothed, all heads and words; each map on a scale of its own from 0 to its maximum over the
clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from bench.prior_configs import ALL, TWIN, Extracted
from components.core.artifacts import PriorLine
from components.pages.figures import TABLE
from components.pages.stored import Stored, nearest_frame

CLIPS, DPI = 3, 100
_MASK = ListedColormap([(0.93, 0.93, 0.91), (0.65, 0.68, 0.72), (0.04, 0.48, 0.46)])
_HEAT = ListedColormap(TABLE / 255)
_INK, _SOFT = "#1c222b", "#5d6773"
_NOTE = (
    "The first clips, not picked. Mask: green moves, grey stays. Maps: all heads and words, cells unsmoothed, "
    "from 0 (dark) to the largest value in the clip."
)


def draw(trained: Extracted, twin: Extracted, auc: Mapping[str, Mapping[str, float]], target: Path) -> Path:
    """Write the figure; `auc` holds AUC_obj by sample of both models, by their configuration's name."""
    stored, lines = Stored(trained.store), sorted(trained.priors.lines, key=lambda line: line.sample.uid)[:CLIPS]
    random = {line.sample.id: line for line in twin.priors.lines}
    figure = pyplot.figure(figsize=(10.4, 3.75), dpi=DPI, facecolor="white")
    outer = figure.add_gridspec(1, CLIPS, left=0.088, right=0.995, top=0.86, bottom=0.15, wspace=0.03)
    for column, line in enumerate(lines):
        indices = [nearest_frame(line.video, *cell) for cell in line.grid.times]
        maps = [stored.prior(one).mean(0) for one in (line, random[line.sample.id])]
        rows = [
            _Row("frames", stored.frames(line.video, indices)),
            _Row("mask", _mask(stored, line)[indices], _MASK, 2),
        ]
        rows += [
            _Row(name, map_FHW, _HEAT, map_FHW.max())
            for name, map_FHW in zip(("trained", "random twin"), maps, strict=True)
        ]
        _clip(figure, outer[column], rows, named=column == 0)
        told = ", ".join(
            f"{name} {auc[one.name][line.sample.id]:.2f}" for name, one in (("trained", ALL), ("random twin", TWIN))
        )
        place = outer[column].get_position(figure)
        figure.text(place.x0, place.y1 + 0.025, _wrapped(line.sample.response), fontsize=9, color=_INK, va="bottom")
        figure.text(place.x0, place.y0 - 0.025, f"AUC_obj: {told}", fontsize=9, color=_INK, va="top")
    figure.text(0.088, 0.015, _NOTE, fontsize=8.5, color=_SOFT, va="bottom")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
    pyplot.close(figure)
    return target


@dataclass(frozen=True)
class _Row:
    """A row of pictures, one a frame of the grid; with colours, values from 0 to `top`."""

    name: str
    pictures: np.ndarray
    colours: ListedColormap | None = None
    top: float | None = None


def _clip(figure: Figure, place: SubplotSpec, rows: Sequence[_Row], *, named: bool) -> None:
    """One clip's rows, with their names at the left where wanted."""
    count = len(rows[0].pictures)
    block = place.subgridspec(len(rows), count, hspace=0.05, wspace=0.05)
    for index, row in enumerate(rows):
        for f, picture in enumerate(row.pictures):
            axes = figure.add_subplot(block[index, f])
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.imshow(picture, cmap=row.colours, vmin=0, vmax=row.top, interpolation="nearest")
            if named and f == 0:
                axes.text(
                    -0.12, 0.5, row.name, transform=axes.transAxes, ha="right", va="center", fontsize=9, color=_INK
                )


def _mask(stored: Stored, line: PriorLine) -> np.ndarray:
    """0 background, 1 an object that stays, 2 the mover, for every frame of the clip."""
    assert line.mask is not None  # the set carries them
    mask = stored.tensors(line.mask)
    kinds: np.ndarray = np.where(mask["mover"] > 0, 2, (mask["objects"] > 0).astype(int))
    return kinds


def _wrapped(text: str, width: int = 48) -> str:
    """At most two lines."""
    if len(text) <= width:
        return text
    cut = text.rfind(" ", 0, width)
    return f"{text[:cut]}\n{text[cut + 1 :]}"
