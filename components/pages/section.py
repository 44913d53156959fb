"""A section of a page, how a sample is named under a picture, and the card of a benchmark's question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup, escape

from components.core.artifacts import PriorLine
from components.core.records import Sample
from components.pages.figures import NOTHING, photo, raw


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


def shortened(text: str, limit: int = 160) -> str:
    """At most `limit` characters of a reply."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def film(frames: UInt8[np.ndarray, "n h w 3"], indices: Sequence[int], width: int) -> Markup:
    """Frames side by side, each at most `width` pixels wide."""
    images = (f'<img src="{photo(frame, width)}" alt="frame {i}">' for i, frame in zip(indices, frames, strict=True))
    return raw(f'<div class="film">{"".join(images)}</div>')


def question_card(kind: str, sample: Sample, frames: Markup, replies: Markup) -> str:
    """A question with its options, the right one marked, and what was replied; `kind` is `won`, `lost`, `right` or `wrong`."""
    options = "".join(
        f"<li{' class=right' if option.letter == sample.answer else ''}>{option.letter}. {escape(option.text)}</li>"
        for option in sample.options
    )
    good = "won" if kind in ("won", "right") else "lost"
    return (
        f'<article class="card {good}"><header>{kind} · {escape(sample.question_type)} · <code>sample {sample.id}</code></header>'
        f'{frames}<p class="question">{escape(sample.question)}</p><ul class="options">{options}</ul>{replies}</article>'
    )
