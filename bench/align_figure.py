"""The picture of `bench.align`: accuracy over updates, and one test clip with the VLM's maps, plain and aligned.

The clip is the first test clip of the first seed, not picked. A map is the mean over the question's words, as density
relative to uniform, cells at their size and unsmoothed, on one scale for all; the mover is outlined as it is in the
first frame of a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from bench.drawing import HEAT, INK, SOFT, bare, new_figure, save

_GRID = "#e3e6ea"
_COLOURS = ("#5d6773", "#0a7a75", "#c4572b", "#7a4fa3", "#2f6fb0")

Interval = tuple[float, float, float]
Frames = UInt8[np.ndarray, "n H W 3"]
Masks = Bool[np.ndarray, "n H W"]


def draw_figure(
    curves: Mapping[str, Mapping[int, Interval]],
    frames: Frames,
    mover: Masks,
    maps: Mapping[str, Float[np.ndarray, "F h w"]],
    target: Path,
) -> Path:
    """Write the figure.

    Args:
        curves: of each arm, (mean, low, high) of the accuracy after updates.
        frames: of the clip.
        mover: its mask.
        maps: of the clip, by the name of their row.
        target: the file.
    """
    figure = new_figure(4.7)
    left, right = figure.add_gridspec(
        1, 2, width_ratios=(1.0, 1.0), left=0.04, right=0.995, top=0.9, bottom=0.11, wspace=0.16
    )
    _curves(figure.add_subplot(left), curves)
    _clip(figure, right, frames, mover, maps)
    return save(figure, target)


def _curves(axes: Axes, curves: Mapping[str, Mapping[int, Interval]]) -> None:
    """Draw one line per arm, its interval shaded, its name at its end."""
    ends = _apart([max(curve.items())[1][0] for curve in curves.values()])
    for (arm, curve), colour, end in zip(curves.items(), _COLOURS, ends, strict=False):
        steps = sorted(curve)
        mean, low, high = (np.array(values) for values in zip(*(curve[step] for step in steps), strict=True))
        axes.fill_between(steps, low, high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(steps, mean, color=colour, linewidth=1.8, marker="o", markersize=3.5)
        axes.text(steps[-1] + 8, end, arm, color=colour, fontsize=9, va="center")
    first, last = steps[0], steps[-1]
    axes.set(xlim=(first - 10, last * 1.32), ylim=(0, 1.02), xticks=[*range(0, last + 1, 100)][1:])
    axes.axhline(1 / 3, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.text(last * 1.31, 1 / 3 - 0.015, "a guess among three", color=SOFT, fontsize=8.5, ha="right", va="top")
    axes.tick_params(labelsize=8.5, colors=SOFT, length=0)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_title("Accuracy on 128 test clips per seed: mean and 95 % interval", fontsize=9.5, color=INK, loc="left")
    axes.set_xlabel("updates", fontsize=9, color=SOFT)


def _apart(heights: Sequence[float], least: float = 0.055) -> list[float]:
    """Move heights up where labels would overlap."""
    placed = dict[int, float]()
    for index in np.argsort(heights):
        below = max(placed.values(), default=-1.0)
        placed[int(index)] = max(heights[index], below + least)
    return [placed[index] for index in range(len(heights))]


def _clip(
    figure: Figure, place: SubplotSpec, frames: Frames, mover: Masks, maps: Mapping[str, Float[np.ndarray, "F h w"]]
) -> None:
    """Draw one row of frames and one row per map; one column per cell in time, which is two frames."""
    cells = len(next(iter(maps.values())))
    group = len(frames) // cells
    block = place.subgridspec(
        1 + len(maps), cells, height_ratios=(1 / group, *[1] * len(maps)), hspace=0.06, wspace=0.06
    )
    densities = {name: map_Fhw / map_Fhw.mean() for name, map_Fhw in maps.items()}
    top = max(float(density.max()) for density in densities.values())
    for f in range(cells):
        pair = np.concatenate([*frames[f * group : (f + 1) * group]], axis=1)
        axes = figure.add_subplot(block[0, f])
        axes.imshow(pair, interpolation="nearest")
        bare(axes, "frames" if f == 0 else "")
        for row, (name, density) in enumerate(densities.items(), start=1):
            axes = figure.add_subplot(block[row, f])
            height, width = mover.shape[1:]
            axes.imshow(density[f], cmap=HEAT, vmin=0, vmax=top, interpolation="nearest", extent=(0, width, height, 0))
            axes.contour(mover[f * group], levels=[0.5], colors="white", linewidths=1.2, extent=(0, width, 0, height))
            bare(axes, name if f == 0 else "")
    box = place.get_position(figure)
    figure.text(
        box.x0,
        box.y1 + 0.013,
        "The first test clip (not picked), and where the question's words look",
        fontsize=9.5,
        color=INK,
    )
    note = f"Unsmoothed cells, 0 (dark) to {top:.1f} times uniform; outlined: what moves."
    figure.text(box.x0, 0.035, note, fontsize=8.5, color=SOFT)
