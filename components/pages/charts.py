"""Charts as inline SVG: lines, dots with intervals, histograms, stacked bars.

Colours are CSS classes (`c1` … `c4`, `grey`), so a chart follows the light and the dark theme. Text from data passes
through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from components.core.units import power
from components.pages.figures import NOTHING, raw

_NARROW, _LEAST = 500, 620  # pixels; a card is 640 wide in KFP's viewer
Scale = Callable[[float], float]  # from a value to pixels
Legend = Sequence[tuple[str, str]]  # names and colour classes


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers inside [low, high]."""
    span = (high - low) or 1.0
    step = 10.0 ** math.floor(math.log10(span / count))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten in [low, high], with steps between them where there are few; at most six or so."""
    span = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [m * 10.0**e for e in span for m in factors if low <= m * 10.0**e <= high * 1.0001]
        if len(found) >= 3:
            break
    return found[:: -(-len(found) // 6)] if found else [low, high]


def _short(value: float) -> str:
    text = f"{value:g}"
    return power(value) if "e" in text else text.replace("-", "−")


def _level(left: float, right: object, y: float, name: str) -> str:
    """Return a horizontal grid line with its value at the left."""
    text = f'<text class="tick" x="{left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{name}</text>'
    return f'<path class="grid" d="M{left} {y:.1f}H{right}"/>{text}'


def _below(x: float, y: float, name: object, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="middle">{escape(name)}</text>'


@dataclass(frozen=True)
class Line:
    """A series of a line chart: name, points, CSS colour class; `dots` draws points instead of a line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dots: bool = False


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str,
    log: bool = False,
    zero: bool = True,
    show: Callable[[float], str] | None = None,
) -> Markup:
    """Return a small line chart with a legend; without a point nothing.

    A logarithmic y axis leaves out values ≤ 0; a linear one starts at 0 with `zero`. `show` writes a value of the axis.
    """
    keep = [(x, y) for line in lines for x, y in zip(line.x, line.y, strict=True) if not log or y > 0]
    if not keep:
        return NOTHING
    turn: Scale = math.log10 if log else float
    ys = [turn(y) for _, y in keep]
    x0, x1 = min(x for x, _ in keep), max(x for x, _ in keep)
    y0, y1 = (min(0.0, *ys) if zero and not log else min(ys)), max(ys)
    if y1 - y0 < 1e-12:
        y0, y1 = y0 - 0.5, y1 + 0.5
    y1 += 0.06 * (y1 - y0)
    width, height, left, top, right, bottom = 440, 196, 46, 12, 428, 166
    at_x: Scale = lambda x: left + (x - x0) / ((x1 - x0) or 1) * (right - left)
    at_y: Scale = lambda y: bottom - (turn(y) - y0) / (y1 - y0) * (bottom - top)
    whole = all(x == int(x) for x, _ in keep)  # steps, frames and levels have no halves
    parts = [
        _level(left, right, at_y(m), (show or _short)(m))
        for m in (log_ticks(10**y0, 10**y1) if log else ticks(y0, y1, 4))
    ]
    parts += [_below(at_x(m), bottom + 15, f"{m:g}") for m in ticks(x0, x1, 5) if not whole or m == int(m)]
    parts.append(f'<text class="tick" x="{right}" y="{height - 2}" text-anchor="end">{escape(x_name)}</text>')
    for line in lines:
        points = [(at_x(x), at_y(y)) for x, y in zip(line.x, line.y, strict=True) if not log or y > 0]
        if line.dots or len(points) == 1:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="fill {line.colour}"/>' for x, y in points]
        else:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            parts.append(f'<path d="M{path}" class="stroke {line.colour}"/>')
    return _chart(title, [(line.name, line.colour) for line in lines], parts, width, height)


def _chart(title: str, legend: Legend, parts: Sequence[str], width: int, height: int) -> Markup:
    keys = [
        f'<span class="key"><i class="swatch {colour}"></i>{escape(name)}</span>' for name, colour in legend if name
    ]
    least = min(width, _LEAST) if width > _NARROW else 0  # a wide chart scrolls on a phone instead of shrinking
    return raw(
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>{"".join(keys)}</figcaption><div class="scroll">'
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px;min-width:{least}px" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg></div></figure>'
    )


@dataclass(frozen=True)
class Dot:
    """One line of a dot plot: name, marks (value, low, high, colour class), and a note at the right.

    `small` are values behind the first mark, such as those of single seeds.
    """

    name: str
    marks: Sequence[tuple[float, float | None, float | None, str]]
    note: str = ""
    strong: bool = False
    small: Sequence[float] = ()


def dot_ends(dots: Sequence[Dot]) -> list[float]:
    """Return every value that a dot plot shows."""
    marks = [v for dot in dots for mark in dot.marks for v in mark[:3] if v is not None]
    return [*marks, *(v for dot in dots for v in dot.small)]


def dot_plot(
    title: str,
    dots: Sequence[Dot],
    *,
    reference: float | None = None,
    legend: Legend = (),
    label: int = 190,
    note: int = 230,
    width: int = 940,
    span: tuple[float, float] | None = None,
    join: bool = False,
) -> Markup:
    """Return values with intervals, one line each, and a vertical line at `reference`.

    `label` and `note` are the widths of the names and the notes, `width` is the whole chart's, all in pixels; `span`
    is the least that the axis covers, for charts of one scale; `join` links the first two marks of each line.
    """
    ends = [*dot_ends(dots), *(span or ()), *([] if reference is None else [reference])]
    pad = 0.04 * ((max(ends) - min(ends)) or 1)
    x0, x1 = min(ends) - pad, max(ends) + pad
    row = 26
    left, right, height = label, width - note, row * len(dots) + 30
    at: Scale = lambda v: left + (v - x0) / (x1 - x0) * (right - left)
    parts = [
        f'<path class="grid" d="M{at(m):.1f} 4V{height - 22}"/>{_below(at(m), height - 7, _short(m))}'
        for m in ticks(x0, x1, min(6, max(4, (right - left) // 55)))
    ]
    if reference is not None:
        parts.append(f'<path class="reference" d="M{at(reference):.1f} 4V{height - 22}"/>')
    for index, dot in enumerate(dots):
        y = row * index + 17
        weight = ' font-weight="650"' if dot.strong else ""
        parts.append(f'<text x="{left - 14}" y="{y + 4}" text-anchor="end"{weight}>{escape(dot.name)}</text>')
        parts.append(f'<text class="note" x="{right + 14}" y="{y + 4}">{escape(dot.note)}</text>')
        if join and len(dot.marks) > 1:
            parts.append(f'<path class="joint" d="M{at(dot.marks[0][0]):.1f} {y}H{at(dot.marks[1][0]):.1f}"/>')
        for value in dot.small:
            parts.append(f'<circle cx="{at(value):.1f}" cy="{y}" r="2.2" class="fill small {dot.marks[0][3]}"/>')
        for value, low, high, colour in dot.marks:
            if low is not None and high is not None:
                parts.append(f'<path class="stroke thin {colour}" d="M{at(low):.1f} {y}H{at(high):.1f}"/>')
            parts.append(f'<circle cx="{at(value):.1f}" cy="{y}" r="4.5" class="fill {colour}"/>')
    return _chart(title, legend, parts, width, height)


def histogram(title: str, values: Sequence[float], *, bins: int = 20, mark: float | None = None) -> Markup:
    """Return counts in equal bins of [0, 1]; `mark` draws a limit."""
    counts = np.histogram(np.clip(values, 0, 1), bins, (0, 1))[0].tolist()
    width, height, left, bottom = 440, 160, 34, 132
    step, top = (width - left - 10) / bins, max(1, *counts)
    tall: Scale = lambda count: 112 * count / top
    at: Scale = lambda value: left + value * step * bins
    parts = [_level(left, width - 10, bottom - tall(m), f"{m:g}") for m in ticks(0, top, 3) if m == int(m)]
    parts += [
        f'<rect class="fill c1" x="{left + i * step + 1:.1f}" y="{bottom - tall(n):.1f}" width="{step - 2:.1f}" '
        f'height="{tall(n):.1f}" rx="1.5"/>'
        for i, n in enumerate(counts)
        if n
    ]
    parts += [_below(at(m), bottom + 15, f"{m:g}") for m in ticks(0, 1, 5)]
    if mark is not None:
        parts.append(f'<path class="reference" d="M{at(mark):.1f} 12V{bottom}"/>')
    return _chart(title, (), parts, width, height)


@dataclass(frozen=True)
class Stack:
    """One bar of signed parts: name below, (value, colour) parts, error of the first part, whether it is selected."""

    name: str
    parts: Sequence[tuple[float, str]]
    error: float
    selected: bool
    note: str = ""


def stacked_bars(title: str, stacks: Sequence[Stack], legend: Legend, cut: int, cut_name: str) -> Markup:
    """Return bars in the given order: positive parts stack up, negative ones down; a line stands behind bar `cut`."""
    rise = max(sum(max(v, 0) for v, _ in s.parts) + s.error for s in stacks)
    fall = min(sum(min(v, 0) for v, _ in s.parts) - s.error for s in stacks)
    width, height, left, top, bottom = 960, 250, 40, 18, 214
    scale, step = (bottom - top) / ((rise - fall) or 1), min(96.0, (width - left - 10) / len(stacks))
    zero, right = top + rise * scale, f"{left + step * len(stacks):.1f}"
    parts = [_level(left, right, zero - m * scale, _short(m)) for m in ticks(fall, rise, 5)]
    for index, stack in enumerate(stacks):
        x = left + index * step
        parts.append(_stack(stack, x, step, zero, scale))
        if len(stacks) <= 60:
            kind = "tick strong" if stack.selected else "tick"
            parts.append(_below(x + step / 2, bottom + 18, stack.name, kind))
    x = left + cut * step
    parts.append(f'<path class="reference" d="M{x:.1f} 4V{bottom + 6}"/>')
    parts.append(f'<text class="tick strong" x="{x - 6:.1f}" y="12" text-anchor="end">{escape(cut_name)}</text>')
    return _chart(title, legend, parts, width, height)


def _stack(stack: Stack, x: float, step: float, zero: float, scale: float) -> str:
    up = down = zero
    pad = max(0.5, step * 0.14)
    left, wide = f"{x + pad:.1f}", f"{step - 2 * pad:.1f}"
    dim = "" if stack.selected else ' opacity=".45"'
    parts = [f"<g{dim}><title>{escape(stack.note)}</title>"]
    for index, (value, colour) in enumerate(stack.parts):
        size = abs(value) * scale
        up, down, y = (up - size, down, up - size) if value >= 0 else (up, down + size, down)
        parts.append(f'<rect class="fill {colour}" x="{left}" y="{y:.1f}" width="{wide}" height="{size:.1f}"/>')
        if index == 0:
            tip, error = (y if value >= 0 else y + size), stack.error * scale
            parts.append(f'<path class="error" d="M{x + step / 2:.1f} {tip - error:.1f}V{tip + error:.1f}"/>')
    return "".join([*parts, "</g>"])
