"""How a page was made: the units that were left out, and each step's parameters and models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from markupsafe import Markup

from components.core.records import Failure, StepRecord
from components.core.units import counted, parameters
from components.pages.figures import code, raw
from components.pages.page import Section, html_table

_LISTED = 200


def left_out(failures: Collection[Failure], whose: Mapping[Failure, str] | None = None) -> Section:
    """Return the left-out units by task, with reasons, and where there are several runs whose they are."""
    name, title = "left-out", "Left out"
    if not failures:
        return Section(name, title, "Nothing: every unit of every step is in.")
    counts = Counter(item.task for item in failures)
    units = sorted(failures, key=lambda item: (item.task, item.unit))[:_LISTED]
    lead = (
        f"{counted(len(failures), 'unit')}: " + ", ".join(f"{n} by {task}" for task, n in sorted(counts.items())) + "."
    )
    if len(units) < len(failures):
        lead += f" The first {_LISTED} are listed."
    head = ("task", "unit", "reason", *([] if whose is None else ["variants"]))
    rows = ((item.task, code(item.unit), item.reason, *([] if whose is None else [whose[item]])) for item in units)
    return Section(name, title, lead, html_table(head, rows))


def step_details(task: str, record: StepRecord) -> Markup:
    """Return a step's parameters behind a line that opens them."""
    values = sorted(parameters({**record.scalars, **record.params}))
    table = html_table((), [(code(name), value) for name, value in values])
    models = ", ".join(f"{model.name} {model.digest[:12]}" for model in record.models.values())
    shown = table if values else raw("<p>no parameters</p>")
    return raw("<details><summary><b>{}</b> v{} {}</summary>{}</details>").format(task, record.version, models, shown)
