"""Pictures of a step for the KFP UI: drawn once per unit and remembered, and a small self-contained page of captioned ones.

A picture is work of its own (`<step>_pictures/<key>`): asking for more never touches results, and pictures count as no
units.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from components.core.records import Json, sha256
from components.runtime.context import Context
from components.store.entries import Entry, WorkFolder

U = TypeVar("U")

_STYLE = (
    "body{color-scheme:light dark;font:14px system-ui,sans-serif;margin:16px;max-width:1000px}"
    "img{max-width:100%;image-rendering:pixelated}figure{margin:0 0 20px}"
)


def pictured(names: Sequence[str], count: int) -> list[str]:
    """The `count` names with the smallest sha256, in that order: one new unit changes at most one."""
    return sorted(set(names), key=lambda name: sha256(name.encode()))[:count]


def draw(
    context: Context[Any],
    units: Sequence[U],
    *,
    name: Callable[[U], str],
    reads: Callable[[U], Json],
    paint: Callable[[U, WorkFolder], Json],
) -> list[Entry]:
    """The pictures of `units`, each drawn unless it is remembered; they enter neither the step's counts nor its left-out units.

    Args:
        context: the running step.
        units: what to draw, in the order of the answer.
        name: a unit's id.
        reads: what a picture shows, by key or content hash.
        paint: writes files into the folder and returns small numbers for the entry.

    Raises:
        DataError: a picture needs an object of the store that is missing or damaged.
    """
    work, entries = f"{context.step.name}_pictures", []
    for unit in units:
        key = context.key(reads(unit))
        entry = context.remembered(key, work)
        if entry is None:
            folder = context.work(key, work)
            numbers = paint(unit, folder)
            entry = folder.finish(name(unit), reads(unit), numbers)
        entries.append(entry)
    return entries


def picture_page(title: str, pictures: Sequence[tuple[str, bytes]]) -> str:
    """A page of captioned PNGs; without pictures it says that none were asked for."""
    figures = []
    for caption, png in pictures:
        data = base64.b64encode(png).decode()
        figures.append(
            f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        )
    body = "".join(figures) or "<p>No pictured samples in this shard.</p>"
    return f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style><h3>{html.escape(title)}</h3>{body}"
