"""The comparison in Markdown, for the KFP UI and a terminal."""

from __future__ import annotations

from components.comparison.compare import Model, Row, Table, Value
from components.comparison.material import Material
from components.comparison.paper import AblationTable
from components.comparison.verdict import headline, sentences
from components.core.units import bare_probability, parameters, signed
from components.pages.estimates import interval
from components.pages.markdown import bullets, document, table, text


def summary(material: Material, path: str) -> str:
    """Return the verdict, every benchmark's metrics as tables, and the whole page's path, in Markdown."""
    found, paper = material.comparison, material.paper
    blocks = ["# Comparison", text(headline(material))]
    blocks.append(bullets(f"{name}: {outcome}" for name, outcome in sentences(found)))
    for one in found.tables:
        for row in (row for row in one.rows if row.is_total):
            rows = [_summed(row.values[model.name], model, one, row, paper) for model in found.models]
            head = ("", "seeds", "accuracy", "difference", "interval", "p", *(["paper"] if paper else []))
            blocks += [f"## {text(f'{one.benchmark.title} {row.name}')}", table(head, rows)]
    changed = [
        (name, ", ".join(f"{key} = {value}" for key, value in parameters(own)) or "nothing")
        for name, own in material.changes.items()
    ]
    blocks += ["## Variants", table(("variant", "changes"), changed)]
    return document(*blocks, f"The whole page: `{path}` in the store.")


def _summed(value: Value, model: Model, one: Table, row: Row, paper: AblationTable | None) -> tuple[object, ...]:
    cells = [model.name, len(model.seeds) or "–", f"{value.mean.value:.1f}"]
    if value.change is None or value.p is None:
        cells += ["–", "baseline", "–"]
    else:
        cells += [signed(value.change.value), interval(value.change), bare_probability(value.p)]
    if paper is not None:
        printed = paper.rows[model.name].numbers.get(one.benchmark.name, {}) if model.name in paper.rows else {}
        cells.append(f"{printed[row.key]:.1f}" if row.key in printed else "")
    return tuple(cells)
