"""What of a source cannot be used, found before any video is read: `plan` and the import judge by the same rules.

A video that is missing or bad takes all its rows along. Of rows that are one sample the first is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.benchmarks.interface import get_benchmark
from components.benchmarks.rows import Row
from components.core.errors import DataError
from components.core.records import Sample, sha256
from components.dataset_import.sources import Source

Kind = Literal["video", "row", "duplicate"]
NAMES: dict[Kind, str] = {"video": "unusable videos", "row": "bad rows", "duplicate": "repeated rows"}


@dataclass(frozen=True)
class Lost:
    """A row or a video that cannot be used: what failures call it, why, how many rows are lost with it."""

    kind: Kind
    protocol: str
    unit: str
    reason: str
    rows: int = 1


def lost_in(source: Source) -> list[Lost]:
    """Return the rows of a source that cannot be used, and the videos that it does not have."""
    lost = [Lost("row", source.protocol, source.unit(row.unit), row.reason) for row in source.rejected]
    for video in source.videos:
        if video.file is None:
            first, more = video.rows[0], f" and {len(video.rows) - 1} more" if len(video.rows) > 1 else ""
            reason = f"not in the source, named by {first.uid} ({first.where}){more}"
            lost.append(Lost("video", source.protocol, source.unit(video.path), reason, len(video.rows)))
    return lost


def repeated_in(source: Source) -> list[Lost]:
    """Return the rows that repeat another one about the same file; files of the same content are not known yet."""
    lost = []
    for video in source.videos:
        lost += _sorted(sha256(video.path.encode()), [(source, row) for row in video.rows])[1]
    return lost


def distinct(video_sha256: str, rows: Sequence[tuple[Source, Row]]) -> tuple[list[Sample], list[Lost]]:
    """Return a video's samples, by id and protocol, and the rows that are one of them once more."""
    first, lost = _sorted(video_sha256, rows)
    return [row.sample(video_sha256) for _, row in sorted(first.items(), key=lambda item: item[0])], lost


def _sorted(video_sha256: str, rows: Sequence[tuple[Source, Row]]) -> tuple[dict[tuple[str, str], Row], list[Lost]]:
    """Return the first row of each sample, by id and protocol, and the others."""
    first: dict[tuple[str, str], Row] = {}
    lost = []
    for source, row in rows:
        kept = first.setdefault((row.id(video_sha256), row.protocol), row)
        if kept is not row:
            reason = f"the same video, question, options and response as {_name(kept)}"
            lost.append(Lost("duplicate", source.protocol, source.unit(_name(row)), reason))
    return first, lost


def _name(row: Row) -> str:
    return row.where if row.uid == row.where else f"{row.uid} ({row.where})"


def too_many(sources: Sequence[Source], lost: Sequence[Lost], allowed: float) -> dict[str, str]:
    """Return which benchmarks lose a larger share of their items than `allowed`, by name, and how many of how many."""
    found = {}
    for source in sources:
        total = sum(len(video.rows) for video in source.videos) + len(source.rejected)
        count = sum(item.rows for item in lost if item.protocol == source.protocol)
        if count > allowed * total:
            found[source.protocol] = f"{source.protocol}: {count:,} of {total:,} items"
    return found


def refuse_other_counts(sources: Sequence[Source]) -> None:
    """Raise DataError where benchmarks have not the items that were published; per type, found and published."""
    problems = []
    for source in sources:
        benchmark, rows = get_benchmark(source.protocol), [row for video in source.videos for row in video.rows]
        if differences := benchmark.differences(rows, len(source.rejected)):
            problems.append(f"{source.root} is not {benchmark.title} as published ({'; '.join(differences)})")
    if problems:
        remedy = "complete the annotations, or set params_dataset_import.allow_subset=true to evaluate on a part"
        raise DataError("; ".join(problems), source="benchmarks", remedy=remedy)
