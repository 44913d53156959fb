"""Every page in one look: sections, captions, tables, folded blocks, a benchmark's question, and the file they fill.

Needs no torch: a finished shard puts its preview together from remembered figures in no time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup, escape

from components.core.errors import DataError
from components.core.records import Sample
from components.pages.figures import NOTHING, code, photo, raw

_NUMBERED = ("report", "comparison")  # pages with a table of contents and numbered sections
log = logging.getLogger(__name__)
DRAWING = "2"  # enters the key of a remembered figure: bump it when the style that figures rely on changes
_SHOWN_BYTES = 1_000_000  # of an HTML artifact that the KFP UI shows


@dataclass(frozen=True)
class Section:
    """One section of a page: anchor, title, one line on what is seen or why nothing is, and the body."""

    name: str
    title: str
    lead: Markup | str
    body: Markup = NOTHING


def render(found: Sequence[Section], note: str = "", name: str = "report") -> str:
    """Return one HTML file without scripts, fonts or other files' addresses; the first section is the page's head."""
    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=strict)
    template = resources.files("components.pages").joinpath("page.html.j2").read_text()
    return environment.from_string(template).render(
        verdict=found[0], sections=found[1:], note=note, name=name, numbered=name in _NUMBERED
    )


def preview(name: str, lead: str, about: str, found: Sequence[Section], limit: int = _SHOWN_BYTES) -> str:
    """Return a step's page: its headline, what it is about, and as many sections as fit into `limit` bytes."""
    head, note = Section("top", name, lead, caption(about)), ""
    for count in range(len(found), -1, -1):
        page = render([head, *found[:count]], note, name)
        if len(page.encode()) <= limit:
            break
        note = f"{len(found) - count + 1} of {len(found)} pictures do not fit into this viewer."
    return page


def fit(make: Callable[[int], str], shown: int, limit: int) -> str:
    """Return the page with as many of the `shown` pictured samples as fit into `limit` bytes.

    Raises:
        DataError: even without pictured samples it is larger.
    """
    for count in range(shown, -1, -1):
        page = make(count)
        if len(page.encode()) <= limit:
            return page
        log.info("the page with %d pictured samples has %d bytes, more than %d", count, len(page.encode()), limit)
    problem = f"the page without pictured samples has {len(page.encode())} bytes, more than {limit}"
    raise DataError(problem, source="the page", remedy="give fewer benchmarks to one page")


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


def text_caption(sample: Sample) -> Markup:
    """Return a sample's text as a caption."""
    return caption(shortened(sample.response or sample.question))


def shortened(text: str, limit: int = 160) -> str:
    """Return at most `limit` characters of a text."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def folded(blocks: Sequence[Markup], shown: int, what: str) -> Markup:
    """Return the first `shown` blocks, and the others behind a line that opens them."""
    first, rest = (
        raw('<div class="">{}</div>').format(NOTHING.join(part)) for part in (blocks[:shown], blocks[shown:])
    )
    if len(blocks) <= shown:
        return first
    return first + raw("<details><summary>{} {}</summary>{}</details>").format(len(blocks) - shown, what, rest)


def fact_list(facts: Iterable[tuple[str, object]]) -> Markup:
    """Return names and facts below each other; facts that are not `Markup` are escaped."""
    items = (raw("<dt>{}</dt><dd>{}</dd>").format(name, fact) for name, fact in facts)
    return raw('<dl class="facts">{}</dl>').format(NOTHING.join(items))


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
    """Return a question (`kind`: won, lost, right, wrong) with its options, the right one marked, and the replies."""
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
