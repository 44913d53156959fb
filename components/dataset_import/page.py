"""The import's page in the KFP UI: what came in, what was left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median

from components.benchmarks.interface import get_benchmark
from components.core.artifacts import VideoLine
from components.core.records import Failure, Sample
from components.core.units import readable_bytes
from components.dataset_import.sources import Source
from components.pages.markdown import Markdown, bullets, code, document, table, text

_LISTED = 50  # failures shown; the manifest has all


def page(sources: Sequence[Source], lines: Sequence[VideoLine], left_out: Sequence[Failure]) -> str:
    """Return Markdown: sources, clips, texts, question types, and the units that were left out."""
    samples = [sample for line in lines for sample in line.samples]
    kinds = Counter(sample.question_type or "(none)" for sample in samples if sample.options)
    listed = [Markdown(f"{code(item.unit)}: {text(item.reason)}") for item in left_out[:_LISTED]]
    taken = Counter(sample.protocol or sample.source for sample in samples)
    came = [
        (
            one.protocol or one.name or "training",
            one.layout,
            len(one.videos),
            f"{taken[one.protocol or one.name]:,} of {one.rows:,}",
            f"{one.weight:g}",
        )
        for one in sources
    ]
    more = len(left_out) - len(listed)
    return document(
        "# Import",
        table(("source", "layout", "files", "samples of rows", "weight"), came),
        bullets(line for one in sources for line in one.facts),
        *_benchmarks(sources, samples),
        "## Videos",
        table(("", "least", "median", "most"), _clip_rows(lines)),
        *_damaged(lines),
        "## Samples",
        table(("", "count"), _counts(lines, samples).items()),
        "## Question types" if kinds else "",
        table(("type", "items"), sorted(kinds.items())) if kinds else "",
        "## Left out" if left_out else "",
        bullets([*listed, *([f"… and {more} more, in the manifest"] if more else [])]),
    )


def _benchmarks(sources: Sequence[Source], samples: Sequence[Sample]) -> list[str]:
    """Return how many items of each benchmark can be scored, of how many that were published."""
    rows = []
    for benchmark in (get_benchmark(source.protocol) for source in sources if source.protocol):
        own = [bool(sample.answer) for sample in samples if sample.protocol == benchmark.name]
        rows.append((benchmark.title, benchmark.share(sum(own)), len(own) - sum(own)))
    return ["## Benchmarks", table(("", "with an answer", "held out"), rows)] if rows else []


def _clip_rows(lines: Sequence[VideoLine]) -> list[tuple[str, ...]]:
    videos = [line.video for line in lines]
    facts: list[tuple[str, Callable[[float], str], list[float]]] = [
        ("duration, s", "{:.2f}".format, [video.duration for video in videos]),
        ("frames", _count, [len(video.times) for video in videos]),
        ("width, px", _count, [video.width for video in videos]),
        ("height, px", _count, [video.height for video in videos]),
        ("file", readable_bytes, [video.file.bytes for video in videos]),
    ]
    return [(name, show(min(found)), show(median(found)), show(max(found))) for name, show, found in facts]


def _damaged(lines: Sequence[VideoLine]) -> list[str]:
    """Return the clips that are taken in spite of frames that the decoder does not vouch for, the worst first."""
    found = sorted((line for line in lines if line.video.corrupt), key=lambda line: (-_share(line), line.video.id))
    if not found:
        return []
    named = [Markdown(f"{code(_uid(line))}: {line.video.corrupt} of {len(line.video.times)} frames") for line in found]
    more = [f"… and {len(found) - _LISTED} more, in the manifest"] if len(found) > _LISTED else []
    return ["## Damaged frames", bullets([*named[:_LISTED], *more])]


def _share(line: VideoLine) -> float:
    return line.video.corrupt / len(line.video.times)


def _uid(line: VideoLine) -> str:
    return line.samples[0].uid if line.samples else line.video.id


def _count(value: float) -> str:
    """Return a whole number as it is; the median of two may be a half."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _counts(lines: Sequence[VideoLine], samples: Sequence[Sample]) -> dict[str, int]:
    return {
        "videos": sum(line.video.kind == "video" for line in lines),
        "images": sum(line.video.kind == "image" for line in lines),
        "parts of longer videos": sum(line.video.part is not None for line in lines),
        "videos with damaged frames": sum(line.video.corrupt > 0 for line in lines),
        "videos with a ground-truth mask": sum(line.mask is not None for line in lines),
        "samples": len(samples),
        "asked by a template instruction": sum(sample.is_instruction for sample in samples),
        "with options": sum(bool(sample.options) for sample in samples),
        "answer held out": sum(bool(sample.options) and not sample.answer for sample in samples),
        "with earlier turns": sum(bool(sample.earlier) for sample in samples),
    }
