"""Differences to the baseline as dots, each with its interval and its single seeds: per benchmark, metric and type."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from components.comparison.compare import ALPHA, Comparison, Row, Table, Value
from components.comparison.material import Material
from components.core.units import bare_probability, counted, signed
from components.pages.charts import Dot, dot_ends, dot_plot
from components.pages.estimates import change_cell, share_cell
from components.pages.figures import NOTHING, raw
from components.pages.page import Section, absent, caption, html_table, shortened

_LABEL = 26  # most characters of a model's name in a chart
_WIDTH = 460  # pixels of a chart


def types(material: Material) -> Section:
    """Return each benchmark's metrics and task types: differences as dots, every number behind a line."""
    found = material.comparison
    lead = (
        "Differences to the baseline in points, all charts of a benchmark on one scale: the mean over seeds with its "
        "95 % interval over videos, single seeds as small dots."
    )
    return Section("types", "Task types", lead, NOTHING.join(_benchmark(one, found) for one in found.tables))


def _benchmark(one: Table, found: Comparison) -> Markup:
    title = f"{one.benchmark.title} · {one.benchmark.share(one.items)} of {counted(one.videos, 'video')}"
    ends = dot_ends([dot for row in one.rows for dot in _dots(row, found)])
    charts = [chart(one, row, found, row.name, (min(ends), max(ends)) if ends else None) for row in one.rows]
    numbers = [(row.name, model.name, *_numbers(row.values[model.name])) for row in one.rows for model in found.models]
    head = ("", "variant", "accuracy", "single seeds", "difference", "p")
    shown = raw('<div class="scroll">{}</div>').format(html_table(head, numbers))
    unread = ", ".join(f"{name} {share:.1%}" for name, share in one.unparsed.items())
    return raw("<h3>{}</h3>{}{}<details><summary>every number, {} rows</summary>{}</details>").format(
        title, grid(charts), caption(f"Unreadable replies, counted as wrong: {unread}."), len(numbers), shown
    )


def _numbers(value: Value) -> tuple[object, ...]:
    seeds = ", ".join(f"{one:.1f}" for one in value.seeds)
    if value.change is None or value.p is None:
        return share_cell(value.mean), seeds, "baseline", ""
    return share_cell(value.mean), seeds, change_cell(value.change), bare_probability(value.p)


def chart(one: Table, row: Row, found: Comparison, title: str, span: tuple[float, float] | None = None) -> Markup:
    """Return the chart of one line of a benchmark; `span` are the ends of its scale."""
    dots = _dots(row, found)
    if not dots:
        return absent(f"{one.benchmark.title}: nothing to compare with.")
    label = 22 + round(max(len(dot.name) * (8.0 if dot.strong else 7.2) for dot in dots))
    return dot_plot(title, dots, reference=0.0, label=label, note=58, width=_WIDTH, span=span)


def _dots(row: Row, found: Comparison) -> list[Dot]:
    """Return the differences of all compared models, and of each of their seeds."""
    dots = []
    for model in found.compared:
        value, base = row.values[model.name], row.values[str(model.against)].mean.value
        assert value.change is not None
        mark = (value.change.value, value.change.low, value.change.high, "c1" if model.seeds else "grey")
        seeds = [one - base for one in value.seeds] if len(value.seeds) > 1 else []
        dots.append(Dot(short_name(model.name), [mark], signed(value.change.value), (value.p or 1) < ALPHA, seeds))
    return dots


def short_name(name: str) -> str:
    """Return a model's name as charts show it."""
    return shortened(name, _LABEL)


def grid(charts: Sequence[Markup]) -> Markup:
    """Return charts side by side."""
    return raw('<div class="charts">{}</div>').format(NOTHING.join(charts))
