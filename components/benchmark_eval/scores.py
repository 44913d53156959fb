"""An item's reply parsed and judged, and the scores of a benchmark's items."""

from __future__ import annotations

from collections.abc import Sequence

from components.benchmarks.interface import Benchmark
from components.benchmarks.parse import parse_reply
from components.core.artifacts import ItemResult, Score, VideoLine
from components.core.records import Json, Sample
from components.quality.statistics import Estimate, bootstrap, wilson
from components.store.entries import Entry


def judged(line: VideoLine, sample: Sample, benchmark: Benchmark, entry: Entry) -> ItemResult:
    """Return an item with its remembered reply, parsed and judged anew."""
    reply = entry.numbers["reply"]
    letter, rule = parse_reply(reply, sample.options, letters=benchmark.shows_letters)
    held_out = not sample.answer
    official = not held_out and benchmark.official_rule(reply.strip(), sample.options, sample.answer)
    found: Json = {"parsed": letter or "", "rule": rule, "official_correct": official, **entry.numbers}
    correct = not held_out and letter == sample.answer
    return ItemResult(video=line.video.clip, mask=line.mask, sample=sample, key=entry.key, correct=correct, **found)


def scores(lines: Sequence[ItemResult], benchmark: Benchmark) -> list[Score]:
    """Return the task types that are there, the benchmark's metrics, and the score by its own rule.

    Intervals: Wilson's for a task type, a bootstrap over videos for the others, since questions of one video are not
    independent.
    """
    types = [benchmark.task_type(line.sample.question_type, f"item {line.sample.uid}") for line in lines]
    videos = [line.video.id for line in lines]
    right, official = [line.correct for line in lines], [line.official_correct for line in lines]

    def score(name: str, own: Sequence[int], share: Estimate, correct: Sequence[bool] = right) -> Score:
        value = share.percent.value
        low, high = (value if bound is None else bound for bound in (share.percent.low, share.percent.high))
        hits, unparsed = sum(correct[i] for i in own), sum(not lines[i].parsed for i in own)
        return Score(name=name, n=len(own), correct=hits, accuracy=value, low=low, high=high, unparsed=unparsed)

    found = []
    for kind in dict.fromkeys(benchmark.types.values()):
        if own := [i for i, name in enumerate(types) if name == kind]:
            found.append(score(kind, own, wilson(sum(right[i] for i in own), len(own))))
    totals, _ = benchmark.measure(right, videos, types)
    for metric in benchmark.metrics:
        if metric.name in totals:
            found.append(score(metric.name, benchmark.members(metric, types), totals[metric.name]))
    return [*found, score("Official rule", range(len(lines)), bootstrap(official, videos, types).overall, official)]
