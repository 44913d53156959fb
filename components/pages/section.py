"""Parts of a page: sections, captions, tables, folded blocks, and the card of a benchmark's question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup, escape

from components.core.records import Sample
from components.pages.figures import NOTHING, code, photo, raw


@dataclass(frozen=True)
class Section:
    """One section of a page: anchor, title, one line on what is seen or why nothing is, and the body."""

    name: str
    title: str
    lead: Markup | str
    body: Markup = NOTHING


def caption(text: object) -> Markup:
    """Return a line of explanation."""
    return raw('<p class="caption">{}</p>').format(text)


def absent(text: object) -> Markup:
    """Return the line that stands where a run lacks something."""
    return raw('<p class="absent">{}</p>').format(text)


def quoted(sample: Sample, limit: int = 110) -> Markup:
    """Return `sample 0123… its text`."""
    text = shortened(sample.response or sample.question, limit)
    return caption(raw("{} {}").format(code(f"sample {sample.id}"), text))


def text_caption(sample: Sample, limit: int = 160) -> Markup:
    """Return a sample's text as a caption."""
    return caption(shortened(sample.response or sample.question, limit))


def folded(blocks: Sequence[Markup], shown: int, what: str, layout: str = "") -> Markup:
    """Return the first `shown` blocks, and the others behind a line that opens them."""
    first, rest = NOTHING.join(blocks[:shown]), NOTHING.join(blocks[shown:])
    if not rest:
        return raw(f'<div class="{layout}">{first}</div>')
    summary = f"{len(blocks) - shown} {what}"
    return raw(
        f'<div class="{layout}">{first}</div>'
        f'<details><summary>{summary}</summary><div class="{layout}">{rest}</div></details>'
    )


def shortened(text: str, limit: int = 160) -> str:
    """Return at most `limit` characters of a text."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def fact_list(facts: Iterable[tuple[str, object]]) -> Markup:
    """Return names and facts below each other; facts that are not `Markup` are escaped."""
    return raw('<dl class="facts">{}</dl>').format(
        NOTHING.join(raw("<dt>{}</dt><dd>{}</dd>").format(name, fact) for name, fact in facts)
    )


def html_table(head: Sequence[object], rows: Iterable[Sequence[object]], strong: int = 0) -> Markup:
    """Return a table, its first `strong` rows in bold; cells that are not `Markup` are escaped."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr{' class=strong' if index < strong else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for index, row in enumerate(rows)
    )
    return raw(f"<table>{f'<tr>{top}</tr>' if top else ''}{body}</table>")


def film(frames: UInt8[np.ndarray, "n h w 3"], indices: Sequence[int], width: int) -> Markup:
    """Return frames side by side, each at most `width` pixels wide."""
    images = (f'<img src="{photo(frame, width)}" alt="frame {i}">' for i, frame in zip(indices, frames, strict=True))
    return raw(f'<div class="film">{"".join(images)}</div>')


def question_card(kind: str, sample: Sample, frames: Markup, replies: Markup) -> str:
    """Return a question with its options, the right one marked, and the replies.

    `kind` is `won`, `lost`, `right` or `wrong`.
    """
    options = "".join(
        f"<li{' class=right' if option.letter == sample.answer else ''}>{option.letter}. {escape(option.text)}</li>"
        for option in sample.options
    )
    good = "won" if kind in ("won", "right") else "lost"
    return (
        f'<article class="card {good}"><header>{kind} · {escape(sample.question_type)} · '
        f"<code>sample {sample.id}</code></header>"
        f'{frames}<p class="question">{escape(sample.question)}</p>'
        f'<ul class="options">{options}</ul>{replies}</article>'
    )
