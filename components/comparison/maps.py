"""Supplement Fig. 1: the priors of pictured samples over numbers of DDIM steps and shares of heads and words.

Variants whose priors differ in these alone stand in one grid, rows by steps, columns by shares; other priors stand
below by the names of their variants. A map is the mean over the sample's chosen words at the middle of the clip; each
row has one colour scale.
Legend: H W the prior's grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from components.core.artifacts import SMALLEST, PriorLine, PriorSet
from components.core.records import canonical_json
from components.pages.figures import Cell, StripRow, heat, photo, scale_bar, strip
from components.pages.page import Section, folded, quoted
from components.pages.samples import Stored, nearest_frame

_SCALARS = ("num_steps", "head_ratio", "token_ratio")
_COLUMNS = 4  # pictures side by side


@dataclass(frozen=True, order=True)
class Setting:
    """What supplement Fig. 1 varies: steps of DDIM, shares of heads and of words."""

    num_steps: int
    head_ratio: float
    token_ratio: float

    @property
    def row(self) -> str:
        """What its row is called."""
        return f"{self.num_steps} step{'' if self.num_steps == 1 else 's'}"

    @property
    def column(self) -> str:
        """What its column is called."""
        if self.head_ratio == self.token_ratio:
            return f"{self.head_ratio:.0%} of heads and words"
        return f"{self.head_ratio:.0%} of heads, {self.token_ratio:.0%} of words"


@dataclass(frozen=True)
class Pictured:
    """A prior set: its setting, its other parameters, which variants have it, and the lines of pictured samples."""

    setting: Setting | None
    others: bytes
    variants: tuple[str, ...]
    lines: Mapping[str, PriorLine]


def pictured(priors: Mapping[str, PriorSet], count: int) -> tuple[list[str], list[Pictured]]:
    """Return the ids of at most `count` samples that the prior sets of all variants have, and the sets, each once.

    The ids are those with the smallest sha256: where a set is a part of another one, it has its first ones in common.
    """
    sets: dict[str, tuple[PriorSet, list[str]]] = {}
    for variant, one in priors.items():
        sets.setdefault(one.digest, (one, []))[1].append(variant)
    first, *others = [one.smallest(SMALLEST) for one, _ in sets.values()]
    shown = [name for name in first if all(name in other for other in others)][:count]
    return shown, [_pictured(one, tuple(variants), {*shown}) for one, variants in sets.values()]


def _pictured(one: PriorSet, variants: tuple[str, ...], shown: set[str]) -> Pictured:
    scalars: dict[str, float] = {}
    others = {}
    for task, record in one.provenance.items():
        scalars |= {name: value for name, value in record.scalars.items() if name in _SCALARS}
        left = {name: value for name, value in record.scalars.items() if name not in _SCALARS}
        others[task] = record.model_copy(update={"scalars": left}).model_dump(mode="json")
    setting = Setting(**scalars) if scalars.keys() == {*_SCALARS} else None  # type: ignore[arg-type]
    lines = {line.sample.id: line for line in one.lines if line.sample.id in shown} if shown else {}
    return Pictured(setting, canonical_json(others), variants, lines)


def maps(store: Stored, shown: Sequence[str], sets: Sequence[Pictured]) -> Section:
    """Return the section: of each sample the clip's frame and its maps; further samples are folded away."""
    name, title = "maps", "Priors over steps and ratios"
    if not shown:
        return Section(name, title, "No pictured samples: none was asked for, or the prior sets have none in common.")
    grid, alone = in_grid(sets)
    places = ", as supplement Fig. 1: rows by steps of DDIM, columns by the share of heads and words that is kept"
    lead = (
        "The motion prior of one clip, mean over its chosen words at the clip's middle"
        f"{places if grid else ', of every variant whose prior differs'}. One colour scale per row."
    )
    blocks = [_sample(store, sample, grid, alone) for sample in shown]
    return Section(name, title, lead, folded(blocks, 2, "more samples"))


def in_grid(sets: Sequence[Pictured]) -> tuple[dict[Setting, Pictured], dict[str, Pictured]]:
    """Return the sets that differ in nothing but their settings, by setting, and the others by their variants' names.

    The first are the most of one kind, if they have two settings.
    """
    kinds: dict[bytes, dict[Setting, Pictured]] = {}
    for one in sets:
        if one.setting is not None:
            kinds.setdefault(one.others, {}).setdefault(one.setting, one)
    kind = max(kinds, key=lambda name: len(kinds[name]), default=b"")
    grid = kinds[kind] if kind and len(kinds[kind]) > 1 else {}
    names = (" · ".join(one.variants) if len(sets) > 1 else "all variants" for one in sets)
    return grid, {name: one for name, one in zip(names, sets, strict=True) if not grid or one.others != kind}


def _sample(store: Stored, sample: str, grid: Mapping[Setting, Pictured], alone: Mapping[str, Pictured]) -> Markup:
    """Return a sample's text, then the grid and the other priors, each below the clip's frame."""
    line = next(one.lines[sample] for one in (*grid.values(), *alone.values()))
    video, middle = line.video, line.video.duration / 2
    index = nearest_frame(video, middle, middle)
    clip = Cell(photo(store.frames(video, [index])[0], 240), smooth=True, label=f"frame {index}")

    def draw(rows: Mapping[str, Sequence[Pictured | None]], columns: Sequence[str]) -> Markup:
        frames = StripRow(f"frame {index}, {video.times[index]:.1f} s", [clip] * len(columns))
        made = [_row(store, sample, name, cells, middle) for name, cells in rows.items()]
        return strip([frames, *made], columns, video.width, video.height, _COLUMNS)

    body = quoted(line.sample)
    if grid:
        ratios = {(one.token_ratio, one.head_ratio): one.column for one in sorted(grid)}
        rows = {
            Setting(steps, 1, 1).row: [grid.get(Setting(steps, heads, words)) for words, heads in sorted(ratios)]
            for steps in sorted({one.num_steps for one in grid})
        }
        body += draw(rows, [ratios[ratio] for ratio in sorted(ratios)])
    for start in range(0, len(alone), _COLUMNS):
        part = [*alone][start : start + _COLUMNS]
        body += draw({"prior": [alone[name] for name in part]}, part)
    return body


def _row(store: Stored, sample: str, name: str, cells: Sequence[Pictured | None], second: float) -> StripRow:
    """Return maps on one colour scale; what was not run stays empty."""
    lines = [None if one is None else one.lines[sample] for one in cells]
    found = [None if line is None else _at(store, line, second) for line in lines]
    top = max(float(map_HW.max()) for map_HW in found if map_HW is not None)
    pictures = [
        Cell("", label="not run")
        if line is None or map_HW is None
        else Cell(heat(map_HW, top), line.grid.box, label=f"{name}, sample {sample}")
        for line, map_HW in zip(lines, found, strict=True)
    ]
    return StripRow(name, pictures, scale_bar(top, "prior, × uniform"))


def _at(store: Stored, line: PriorLine, second: float) -> Float[np.ndarray, "H W"]:
    """Return the mean map over the chosen words in the cell whose middle is nearest to a time of the clip."""
    middles = np.array([(start + end) / 2 for start, end in line.grid.times])
    found: np.ndarray = store.prior(line)[:, int(np.abs(middles - second).argmin())].mean(0)
    return found
