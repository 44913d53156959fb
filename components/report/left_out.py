"""Section 10 of the report: units that a step left out, with reasons."""

from __future__ import annotations

from collections import Counter

from components.pages.figures import code
from components.pages.section import Section, html_table
from components.report.material import Material

_LISTED = 200


def left_out(material: Material) -> Section:
    """Return the left-out units by task."""
    name, title = "left-out", "Left out"
    if not material.left_out:
        return Section(name, title, "Nothing: every unit of every step is in.")
    counts = Counter(item.task for item in material.left_out)
    units = sorted(material.left_out, key=lambda item: (item.task, item.unit))[:_LISTED]
    lead = f"{len(material.left_out)} units: " + ", ".join(f"{n} by {task}" for task, n in sorted(counts.items())) + "."
    if len(units) < len(material.left_out):
        lead += f" The first {_LISTED} are listed."
    rows = ((item.task, code(item.unit), item.reason) for item in units)
    return Section(name, title, lead, html_table(("task", "unit", "reason"), rows))
