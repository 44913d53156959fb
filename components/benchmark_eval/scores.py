"""A benchmark's scores from its answered items: each task type, the benchmark's metrics, its own rule.

Intervals: Wilson's for a task type, a bootstrap over videos for the others, since questions of one video are not
independent.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.benchmarks.interface import Benchmark
from components.core.artifacts import ItemResult, Score
from components.quality.statistics import Estimate, bootstrap, wilson


def scores(lines: Sequence[ItemResult], benchmark: Benchmark) -> list[Score]:
    """Return the task types that are there, the metrics, and the score by the benchmark's own rule."""
    types = [benchmark.task_type(line.sample.question_type, f"item {line.sample.uid}") for line in lines]
    videos = [line.video.id for line in lines]
    found = []
    for kind in dict.fromkeys(benchmark.types.values()):
        if chosen := [line for line, name in zip(lines, types, strict=True) if name == kind]:
            found.append(_score(kind, chosen, wilson(sum(line.correct for line in chosen), len(chosen))))
    totals = benchmark.measure([line.correct for line in lines], videos, types).totals
    for metric in benchmark.metrics:
        if metric.name in totals:
            found.append(_score(metric.name, [lines[i] for i in benchmark.members(metric, types)], totals[metric.name]))
    official = [line.official_correct for line in lines]
    share = bootstrap(official, videos, types).overall
    return [*found, _score("Official rule", lines, share).model_copy(update={"correct": sum(official)})]


def _score(name: str, lines: Sequence[ItemResult], share: Estimate) -> Score:
    percent = share.percent
    return Score(
        name=name,
        n=len(lines),
        correct=sum(line.correct for line in lines),
        accuracy=percent.value,
        low=percent.value if percent.low is None else percent.low,
        high=percent.value if percent.high is None else percent.high,
        unparsed=sum(not line.parsed for line in lines),
    )
