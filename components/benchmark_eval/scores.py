"""An item's reply parsed and judged, and the scores of a benchmark's items."""

from __future__ import annotations

from collections.abc import Sequence

from components.benchmarks.interface import Benchmark
from components.benchmarks.parse import parse_reply
from components.core.artifacts import ItemResult, Score, VideoLine
from components.core.records import Json, Sample
from components.quality.statistics import Estimate, Means, accuracy
from components.store.entries import Entry


def judged(line: VideoLine, sample: Sample, benchmark: Benchmark, entry: Entry) -> ItemResult:
    """Return an item with the prompt and the reply that are remembered, the reply parsed and judged anew."""
    reply = entry.numbers["reply"]
    letter, rule = parse_reply(reply, sample.options, letters=benchmark.shows_letters)
    held_out = not sample.answer
    official = not held_out and benchmark.official_rule(reply.strip(), sample.options, sample.answer)
    remembered: Json = {**entry.numbers, "prompt": entry.reads.get("prompt")}
    found: Json = {"parsed": letter or "", "rule": rule, "official_correct": official, **remembered}
    correct = not held_out and letter == sample.answer
    return ItemResult(video=line.video.clip, mask=line.mask, sample=sample, key=entry.key, correct=correct, **found)


def scores(lines: Sequence[ItemResult], benchmark: Benchmark) -> list[Score]:
    """Return the task types that are there, the benchmark's metrics, and the score by its own rule.

    Every interval takes into account which items share a video (`components/quality/statistics.py`).
    """
    types = [benchmark.task_type(line.sample.question_type, f"item {line.sample.uid}") for line in lines]
    right, official = [line.correct for line in lines], [line.official_correct for line in lines]

    def means(own: Sequence[int], correct: Sequence[bool] = right) -> Means:
        return accuracy([correct[i] for i in own], [lines[i].video.id for i in own], [types[i] for i in own])

    def score(name: str, own: Sequence[int], share: Estimate, correct: Sequence[bool] = right) -> Score:
        found, hits, unparsed = share.percent, sum(correct[i] for i in own), sum(not lines[i].parsed for i in own)
        interval = {"low": found.low, "high": found.high}
        return Score(name=name, n=len(own), correct=hits, accuracy=found.value, **interval, unparsed=unparsed)

    totals, by_type = benchmark.measure(means, types)
    found = []
    for kind in benchmark.kinds(types):
        found.append(score(kind, [i for i, name in enumerate(types) if name == kind], by_type[kind]))
    for metric in benchmark.metrics:
        if metric.name in totals:
            found.append(score(metric.name, benchmark.members(metric, types), totals[metric.name]))
    everything = range(len(lines))
    return [*found, score("Official rule", everything, means(everything, official).overall, official)]
