"""The import's page in the KFP UI: what came in, what was left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from components.core.artifacts import VideoLine
from components.core.records import Failure, Sample
from components.dataset_import.sources import Source

_LISTED = 50  # failures shown; the manifest has all


def summarize(sources: Sequence[Source], lines: Sequence[VideoLine], left_out: Sequence[Failure]) -> str:
    """Markdown: sources, clips, texts, question types, and the units that were left out."""
    samples = [sample for line in lines for sample in line.samples]
    sections = [
        "# Import",
        _table(("source", "layout", "files", "rows"), (_source_row(source) for source in sources)),
        "## Videos",
        _table(("", "least", "median", "most"), _clip_rows(lines)),
        "## Samples",
        _table(("", "count"), _sample_rows(lines, samples)),
    ]
    if kinds := Counter(sample.question_type or "(none)" for sample in samples if sample.options):
        sections += [
            "## Question types",
            _table(("type", "items"), ((kind, str(count)) for kind, count in sorted(kinds.items()))),
        ]
    if left_out:
        more = [f"… and {len(left_out) - _LISTED} more, in the manifest"] if len(left_out) > _LISTED else []
        sections += [
            "## Left out",
            "\n".join([*(f"* {_plain(item.unit)}: {_plain(item.reason)}" for item in left_out[:_LISTED]), *more]),
        ]
    return "\n\n".join(sections) + "\n"


def _source_row(source: Source) -> tuple[str, ...]:
    rows = sum(len(video.rows) for video in source.videos) + len(source.rejected)
    return source.protocol or "training", source.layout, str(len(source.videos)), str(rows)


def _clip_rows(lines: Sequence[VideoLine]) -> list[tuple[str, ...]]:
    facts: dict[str, list[float]] = {
        "duration, s": [line.video.duration for line in lines],
        "frames": [len(line.video.times) for line in lines],
        "width, px": [line.video.width for line in lines],
        "height, px": [line.video.height for line in lines],
        "MB": [line.video.file.bytes / 1e6 for line in lines],
    }
    return [
        (name, *(f"{value:.4g}" for value in (min(found), median(found), max(found)))) for name, found in facts.items()
    ]


def _sample_rows(lines: Sequence[VideoLine], samples: Sequence[Sample]) -> list[tuple[str, str]]:
    counts = {
        "videos": len(lines),
        "videos with a ground-truth mask": sum(line.mask is not None for line in lines),
        "samples": len(samples),
        "asked by a template instruction": sum(sample.is_instruction for sample in samples),
        "with options": sum(bool(sample.options) for sample in samples),
        "answer held out": sum(bool(sample.options) and not sample.answer for sample in samples),
        "with earlier turns": sum(bool(sample.earlier) for sample in samples),
    }
    return [(name, str(count)) for name, count in counts.items()]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text of a source on one line, without what Markdown or HTML would read."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
