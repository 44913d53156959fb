"""Parts that the cards of all published data share, in Markdown: decisions, and what was left out."""

from __future__ import annotations

from components.core.artifacts import Manifest
from components.pages.markdown import Markdown, bullets, code, document, table, text


def decisions(manifest: Manifest) -> str:
    """Return every step's result parameters, shared parameters and models."""
    rows = []
    for task, record in sorted(manifest.provenance.items()):
        models = {role: f"{model.name} ({model.digest[:12]})" for role, model in record.models.items()}
        values = {**record.scalars, **record.params, **models}
        rows += [(f"{task} v{record.version}", name, code(value)) for name, value in sorted(values.items())]
    return document("## Decisions", table(("step", "parameter", "value"), rows))


def left_out(manifest: Manifest) -> str:
    """Return the units that were left out, with reasons."""
    lines = [Markdown(f"{code(item.unit)} ({item.task}): {text(item.reason)}") for item in manifest.left_out]
    return document("## Left out", bullets(lines) or "Nothing.")
