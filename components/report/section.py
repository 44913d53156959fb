"""A section of the report, and how a sample is named under a picture."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup, escape

from components.core.artifacts import PriorLine
from components.report.figures import NOTHING, raw


@dataclass(frozen=True)
class Section:
    """One section of the page: its anchor, title, one line that says what is seen or why nothing is, and the body."""

    name: str
    title: str
    lead: Markup | str
    body: Markup = NOTHING


def quoted(line: PriorLine, limit: int = 110) -> Markup:
    """`sample 0123… · "its text"`."""
    text = line.sample.response or line.sample.question
    text = text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
    return raw(f'<p class="caption"><code>sample {line.sample.id}</code> {escape(text)}</p>')
