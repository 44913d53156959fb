"""Markdown pages: what comes from data is text in them, and tables also read on a terminal; parts that all cards share.

`Markdown` marks a string that is markup already. Everything else that enters a table, a list or a paragraph here is
escaped, so that a file name never becomes a link, a tag or a column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from components.core.artifacts import Manifest

# only where it would be markup: `_` inside a word, `[1, 2]`, `<` or `&` before a space stay as they are and read well
_INLINE = re.compile(r"[\\`*~]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")
_TAG, _ENTITY = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(r"&(?=#?\w+;)")
_LEADING = re.compile(r"^(?:(>|\[(?=[ xX]\])|(?:#{1,6}|[+-])(?= |$)|(?:--+|=+)$)|(\d+)([.)])(?= |$))")


class Markdown(str):
    """A string that is Markdown already."""

    __slots__ = ()


def text(value: object) -> Markdown:
    """Return a value as text on one line, without what Markdown or HTML would interpret; `Markdown` as it is."""
    if isinstance(value, Markdown):
        return value
    line = _INLINE.sub(r"\\\g<0>", " ".join(str(value).split()))
    line = _TAG.sub("&lt;", _ENTITY.sub("&amp;", line))
    return Markdown(_LEADING.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}", line))


def code(value: object) -> Markdown:
    """Return a value as a code span on one line; backticks in it survive."""
    line = " ".join(str(value).split())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    pad = " " if not line or line.startswith("`") or line.endswith("`") else ""
    return Markdown(f"{fence}{pad}{line}{pad}{fence}")


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Markdown:
    """Return a table with aligned columns."""
    cells = [[text(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in cells]
    return Markdown("\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]))


def bullets(items: Iterable[object]) -> Markdown:
    """Return a list of one line per item."""
    return Markdown("\n".join(f"* {text(item)}" for item in items))


def document(*blocks: str) -> str:
    """Return blocks of Markdown as a page, one empty line between two; empty blocks are dropped."""
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


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
