"""Markdown pages that KFP's viewer, GitHub and a terminal show alike; parts that all cards share.

`Markdown` marks a string that is markup already. Everything else that enters a list or a paragraph here is escaped, so
that a file name never becomes a link, a tag or emphasis. KFP's viewer is markdown-to-jsx: it shows HTML as text and
takes `_` inside a word as emphasis, and its style has neither cell padding nor bullets. A table is therefore a block
of preformatted text, in which nothing has to be escaped.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, zip_longest

from components.core.artifacts import Manifest
from components.core.units import parameters

_LISTED = 200  # left-out units of a card; the manifest has all
WIDTH = 84  # characters of a table: KFP's viewer is 700 pixels wide

# what is markup to CommonMark or to markdown-to-jsx, 6 or 7
_INLINE = re.compile(
    r"[\\`*_~]|\[(?=[^\]]*\][(\[:]|\^|[xX ]\])|(?<=http):(?=//)|(?<=https):(?=//)"  # spans, links, footnotes, boxes
    r"|<(?=\S)|(?<=<)!|&(?=#?\w+;)|=(?==)|(?<= )#(?=#*$)"  # tags, entities, ==marks==
    r"|(?<= )[+-](?= )|(?<=\d)\.(?= )"  # to version 6 an item of a list inside an item
)
_LEADING = re.compile(r"^(?:([>#]|[+-](?= |$)|-(?=-+$)|=(?==*$))|(\d+)([.)])(?= |$))")
_NUMBER = re.compile(r"[≤<]?\s?[+−-]?[\d,]*\.?\d+( ([kMGTP]?B|%|s|min|h))?|–|")


class Markdown(str):
    """A string that is Markdown already."""

    __slots__ = ()


def text(value: object) -> Markdown:
    """Return a value as text on one line, without what Markdown or HTML would interpret; `Markdown` as it is."""
    if isinstance(value, Markdown):
        return value
    line = _INLINE.sub(r"\\\g<0>", _one_line(value))
    return Markdown(_LEADING.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}", line))


def code(value: object) -> Markdown:
    """Return a value as a code span on one line; backticks in it survive.

    KFP's viewer drops backslashes and comments even there: a value that holds one is plain text instead.
    """
    line = _one_line(value)
    if "\\" in line or "<!--" in line:
        return text(line)
    fence = _fence(line, 1)
    pad = " " if not line or line.startswith("`") or line.endswith("`") else ""
    return Markdown(f"{fence}{pad}{line}{pad}{fence}")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """Return a table as preformatted text; its cells are numbers and plain text.

    Columns of numbers are set to the right. The widest column is wrapped where the lines would be longer than `WIDTH`.
    """
    cells = [[f"{cell:,}" if isinstance(cell, int) else _one_line(cell) for cell in row] for row in rows]
    columns = list(zip(head, *cells, strict=True))
    right = [all(map(_NUMBER.fullmatch, column[1:])) for column in columns]
    widths = [max(3, *map(_width, column)) for column in columns]
    if (excess := sum(widths) + 2 * (len(widths) - 1) - WIDTH) > 0:
        widest = widths.index(max(widths))
        widths[widest] = min(widths[widest], max(16, widths[widest] - excess))
    dashes = "  ".join("-" * width for width in widths)
    lines = [*_lines(head, widths, right), dashes, *(line for row in cells for line in _lines(row, widths, right))]
    block = "\n".join(lines)
    fence = _fence(block, 3)
    return Markdown(f"{fence}\n{block}\n{fence}")


def _lines(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    """Yield the lines of a row: more than one where a cell is wider than its column."""
    parts = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
    for cells in zip_longest(*parts, fillvalue=""):
        gaps = [" " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)]
        padded = (gap + cell if far else cell + gap for cell, gap, far in zip(cells, gaps, right, strict=True))
        yield "  ".join(padded).rstrip()


def _wrapped(cell: str, width: int) -> list[str]:
    return [cell] if _width(cell) <= width else textwrap.wrap(cell, width if _width(cell) <= len(cell) else width // 2)


def _width(cell: str) -> int:
    """Return how many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in cell)
    return len(cell) + wide - sum(unicodedata.combining(character) > 0 for character in cell)


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _fence(inner: str, least: int) -> str:
    """Return more backticks than stand together in a text."""
    return "`" * max(least, max(map(len, re.findall("`+", inner)), default=0) + 1)


def bullets(items: Iterable[object]) -> Markdown:
    """Return a list of one line per item."""
    return Markdown("\n".join(f"* {text(item)}" for item in items))


def document(*blocks: str) -> str:
    """Return blocks of Markdown as a page, one empty line between two; empty blocks are dropped."""
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


def decisions(manifest: Manifest) -> str:
    """Return every step's result parameters, shared parameters and models; a step is named once."""
    rows: list[tuple[str, str, str]] = []
    for task, record in sorted(manifest.provenance.items()):
        models = {role: f"{model.name} ({model.digest[:12]})" for role, model in record.models.items()}
        values = sorted(parameters({**record.scalars, **record.params, **models}))
        step = f"{task} v{record.version}"
        rows += [("" if index else step, name, value) for index, (name, value) in enumerate(values)]
    return document("## Decisions", table(("step", "parameter", "value"), rows))


def left_out(manifest: Manifest) -> str:
    """Return the units that were left out, with reasons."""
    shown = islice(manifest.left_out, _LISTED)
    lines = [Markdown(f"{code(item.unit)} ({code(item.task)}): {text(item.reason)}") for item in shown]
    if (more := len(manifest.left_out) - len(lines)) > 0:
        lines.append(Markdown(f"… and {more:,} more, in the manifest"))
    return document("## Left out", bullets(lines) or "Nothing.")
