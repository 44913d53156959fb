"""All models on all benchmarks' metrics as a table, the paper's own numbers beside them."""

from __future__ import annotations

from markupsafe import Markup

from components.benchmarks.interface import get_benchmark
from components.comparison.compare import ALPHA, Row, Table
from components.comparison.material import Material
from components.comparison.paper import MODEL, AblationTable
from components.core.units import counted, probability, signed
from components.pages.estimates import change_cell, share_cell
from components.pages.figures import NOTHING, code, raw
from components.pages.page import Section, caption, html_table
from components.pages.paper import Doubts


def results(material: Material) -> Section:
    """Return all models on all benchmarks' metrics: accuracy, difference, p, and the paper's own numbers."""
    found, doubts, paper = material.comparison, Doubts(), material.paper
    columns = [(one, row) for one in found.tables for row in one.rows if row.is_total]
    head = ["", *(f"{one.benchmark.title} {row.name}" for one, row in columns)]
    rows = []
    for model in found.models:
        about = [
            *(["baseline"] if model.against is None else []),
            *([counted(len(model.seeds), "seed")] if model.seeds else []),
        ]
        name = raw("{}<br><small>{}</small>").format(model.name, ", ".join(about))
        cells = [
            _cell(row, model.name) + _printed(paper, found.baseline, one, row, model.name, doubts)
            for one, row in columns
        ]
        rows.append((name, *cells))
    first = " and ".join(f"{one.rows[0].name} of {one.benchmark.title}" for one in found.tables)
    family = counted(found.family, "comparison")
    notes = [
        raw(
            "Each cell: accuracy in percent with its interval and ± its standard deviation over seeds; below it the "
            "difference to the baseline in points with its interval and p, bold where p < {}. p of {} is "
            "Holm-corrected for these {}; p of a benchmark's other metrics and types for all of them and all models."
        ).format(ALPHA, first, family)
    ]
    if paper is not None:
        notes.append(
            raw('<span class="paper">In grey: the paper, {}, {}, and its difference.</span>').format(paper.title, MODEL)
        )
    body = raw('<div class="scroll cells">{}</div>').format(html_table(head, rows))
    body += caption(raw("<br>").join([*notes, *doubts.lines]))
    if paper is not None:
        body += _whole(paper, found.baseline)
    lead = (
        "Models in rows, the benchmarks' own metrics in columns. Intervals are 95 %, over videos, for the seeds that "
        "were trained; how much seeds differ is the number behind ±."
    )
    return Section("results", "Variants and benchmarks", lead, body)


def _cell(row: Row, model: str) -> Markup:
    value = row.values[model]
    spread = "" if value.spread is None else raw(" <small>± {}</small>").format(f"{value.spread:.1f}")
    lines = [share_cell(value.mean) + spread]
    if value.change is not None and value.p is not None:
        bold = raw("<b>{}</b>" if value.p < ALPHA else "{}")
        lines += [bold.format(change_cell(value.change)), raw("<small>{}</small>").format(probability(value.p))]
    return raw("<br>").join(lines)


def _printed(paper: AblationTable | None, baseline: str, one: Table, row: Row, model: str, doubts: Doubts) -> Markup:
    """Return the paper's number of a model, with stars where it is in doubt, and its difference to the baseline's."""
    protocol = one.benchmark.name
    if paper is None or model not in paper.rows or row.key not in paper.rows[model].numbers.get(protocol, {}):
        return NOTHING
    printed = paper.rows[model]
    stars = doubts.stars(printed.flags, "row", protocol)
    change = ""
    if baseline in paper.rows and baseline != model:
        change = f" {signed(paper.differences(baseline)[model][protocol][row.key])}"
    return raw('<br><span class="paper">{}{}{}</span>').format(
        f"{printed.numbers[protocol][row.key]:.1f}", change, stars
    )


def _whole(paper: AblationTable, baseline: str) -> Markup:
    """Return the paper's table in its own order and words, behind a line that opens it."""
    doubts = Doubts()
    start = baseline if baseline in paper.rows else next(iter(paper.rows))
    changes = paper.differences(start)
    head = ["printed as", "variant"]
    head += [
        f"{get_benchmark(name).title} {metric}"
        for name, printed in paper.rows[start].numbers.items()
        for metric in printed
    ]
    rows = []
    for name, row in paper.rows.items():
        cells = [
            f"{value:.2f} ({signed(changes[name][protocol][metric], 2)}){doubts.stars(row.flags, protocol)}"
            for protocol, printed in row.numbers.items()
            for metric, value in printed.items()
        ]
        rows.append((f"{row.label}{doubts.stars(row.flags, 'row')}", code(name), *cells))
    shown = raw('<div class="scroll">{}</div>').format(html_table(head, rows))
    about = raw("Percent, in brackets the difference to {}.").format(code(start))
    summary = raw("<summary>the paper's whole table, {} rows</summary>").format(len(rows))
    return raw("<details>{}{}{}</details>").format(summary, shown, caption(raw("<br>").join([about, *doubts.lines])))
