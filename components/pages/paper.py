"""The paper's numbers beside a run's: a model's row, the whole table, and the doubts that its tables raise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

from components.benchmarks.interface import Benchmark, PaperRow
from components.pages.figures import NOTHING, raw
from components.pages.page import caption, html_table

Side = Literal["untouched", "tuned"]


@dataclass
class Doubts:
    """Notes on cells that the paper's own tables put in doubt; each gets as many stars as it has place."""

    notes: list[str] = field(default_factory=list)

    def stars(self, flags: Mapping[str, str], *concerned: str) -> str:
        """Return the stars of a cell, whose notes are kept; of its row's `flags` the `concerned` speak about it."""
        found = list(dict.fromkeys(note for flag, note in flags.items() if flag in concerned))
        self.notes += [note for note in found if note not in self.notes]
        return " ".join("*" * (self.notes.index(note) + 1) for note in found)

    @property
    def lines(self) -> list[str]:
        """The notes, each behind its stars."""
        return [f"{'*' * index} {note}." for index, note in enumerate(self.notes, start=1)]


def paper_row(benchmark: Benchmark, model: str) -> PaperRow | None:
    """Return the paper's row of a model by its name in the registry."""
    return next((row for row in benchmark.paper if row.label.lower() == model), None)


def paper_pair(row: PaperRow, name: str, doubts: Doubts) -> Markup:
    """Return what the paper printed of a metric or task type (by its abbreviation): `untouched → tuned`, with stars."""
    if name not in row.untouched:
        return NOTHING
    numbers = [f"{side[name]:.1f}" for side in (row.untouched, row.tuned) if name in side]
    stars = doubts.stars(row.flags, "row", f"untouched.{name}", f"tuned.{name}")
    return raw('<span class="paper">{}{}</span>').format(" → ".join(numbers), stars)


def paper_table(benchmark: Benchmark, own: Sequence[tuple[str, dict[str, float]]]) -> Markup:
    """Return the paper's whole table behind a line that opens it, below this run's models (`own`: label, percent)."""
    if not benchmark.paper:
        return NOTHING
    columns, doubts = list(benchmark.paper[0].untouched), Doubts()
    rows: list[tuple[object, ...]] = [(label, "", *_cells(values, columns)) for label, values in own]
    for row in benchmark.paper:
        rows.append(_printed(row, "untouched", columns, doubts))
        if row.tuned:
            rows.append(_printed(row, "tuned", columns, doubts))
    head = ("", "frames", *columns)
    if not any(row.frames for row in benchmark.paper):
        head, rows = ("", *columns), [(row[0], *row[2:]) for row in rows]
    table = raw('<div class="scroll">{}</div>').format(html_table(head, rows, len(own)))
    notes = raw("<br>").join(["Percent, in the paper's order.", *doubts.lines])
    summary = raw("<summary>the paper's whole table, {} rows</summary>").format(len(rows) - len(own))
    return raw("<details>{}{}{}</details>").format(summary, table, caption(notes))


def _cells(values: Mapping[str, float], columns: Sequence[str]) -> list[str]:
    return [f"{values[name]:.1f}" if name in values else "" for name in columns]


def _printed(row: PaperRow, side: Side, columns: Sequence[str], doubts: Doubts) -> tuple[object, ...]:
    values = row.untouched if side == "untouched" else row.tuned
    label = row.label if side == "untouched" else f"{row.label} + MotionEnhancer"
    stars = [doubts.stars(row.flags, f"{side}.{name}") for name in columns]
    cells = [cell + star for cell, star in zip(_cells(values, columns), stars, strict=True)]
    return f"{label}{doubts.stars(row.flags, 'row')}", row.frames.replace("fps", " fps"), *cells
