"""Colours and helpers that the pictures of the benches share."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from components.pages.figures import TABLE

HEAT = ListedColormap(TABLE / 255)
INK, SOFT = "#1c222b", "#5d6773"


def new_figure(height: float) -> Figure:
    """Return an empty figure, 1040 pixels wide and `height` hundred pixels high."""
    return pyplot.figure(figsize=(10.4, height), dpi=100, facecolor="white")


def bare(axes: Axes, name: str = "", offset: float = 0.06) -> None:
    """Remove ticks and frame; write `name` to the left of the axes, `offset` of their width away."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.text(-offset, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=9, color=INK)


def save(figure: Figure, target: Path) -> Path:
    """Write the figure and close it; return its path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
    pyplot.close(figure)
    return target
