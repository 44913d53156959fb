"""Parts that the cards of all published data share, in Markdown: decisions and what was left out."""

from __future__ import annotations

from components.core.artifacts import Manifest


def decisions(manifest: Manifest) -> list[str]:
    """Every step's result parameters, shared scalars and models as a Markdown section."""
    rows = ["## Decisions", "", "| step | parameter | value |", "|---|---|---|"]
    for task, record in sorted(manifest.provenance.items()):
        models = {role: f"{model.name} ({model.digest[:12]})" for role, model in record.models.items()}
        values = {**record.scalars, **record.params, **models}
        rows += [f"| {task} v{record.version} | {name} | `{value}` |" for name, value in sorted(values.items())]
    return rows


def left_out(manifest: Manifest) -> list[str]:
    """The units that were left out, with reasons, as a Markdown section."""
    return [
        "## Left out",
        "",
        *([f"* {item.unit} ({item.task}): {item.reason}" for item in manifest.left_out] or ["Nothing."]),
    ]
