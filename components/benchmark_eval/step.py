"""Step 7 · benchmark_eval: a benchmark's questions answered by one model, greedily, and scored. A unit is one item.

A reply is remembered by what it follows from: model, item, prompt, frames, longest reply. It is parsed and scored anew
each time, from the remembered words.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.benchmark_eval.asking import Asker, Unit
from components.benchmark_eval.controls import TITLES, compare_orders, moved, published_letter
from components.benchmark_eval.page import page, scores_table
from components.benchmark_eval.scores import judged, scores
from components.benchmark_eval.settings import Params
from components.benchmarks.interface import Benchmark, get_benchmark, parse_benchmark
from components.benchmarks.parse import parse_reply
from components.core.artifacts import EvalResult, ItemResult, PermutedReply, TunedModel, VideoDataset
from components.core.errors import DataError
from components.core.lines import Lines
from components.core.records import Json, smallest_by_hash
from components.runtime.chosen_vlm import chosen_vlm
from components.runtime.context import Context
from components.runtime.declaration import Form, Step
from components.runtime.parameters import BenchmarkItem, SharedParams, Vlm
from components.store.entries import Entry


class Tuned(SharedParams):
    """Which benchmark; the model is an input."""

    benchmark: BenchmarkItem


class Untouched(Tuned):
    """Which benchmark and which model."""

    vlm: Vlm


def run(context: Context[Params, Tuned]) -> None:
    """Answer what is not remembered, then score everything."""
    data, params = context.input("videos", VideoDataset), context.params
    benchmark = get_benchmark(parse_benchmark(context.shared.benchmark)[0])
    known = items(data, benchmark, params.held_out)
    units = in_orders(limited(known, params.limit), params.permutations)
    with chosen_vlm(context, rows=False) as vlm:
        asker = Asker(context.store, vlm, benchmark, params, units)
        entries = context.each(
            units,
            name=lambda unit: unit.name,
            reads=asker.reads,
            compute=asker.stages,
            group=lambda unit: unit.file,
            around=asker.around,
            called=lambda unit: unit.sample.called(unit.line.video),
            scope={"benchmark": context.shared.benchmark, "limit": params.limit, **vlm.origin},
        )
    done = sorted((unit for unit in units if unit.name in entries), key=lambda unit: unit.name)
    if not done:
        raise DataError("no item was answered", source=context.task, remedy="see what was left out and why")
    answered = [judged(unit.line, unit.sample, benchmark, entries[unit.name]) for unit in done if not unit.shift]
    lines = [line for line in answered if line.sample.answer]
    permuted = [_permuted(unit, benchmark, entries[unit.name]) for unit in done if unit.shift]
    found = scores(lines, benchmark) if lines else []
    fields: Json = {"protocol": benchmark.name, "model": vlm.name, "scores": found}
    fields |= {"lines": Lines(ItemResult, lines), "permuted": Lines(PermutedReply, permuted)}
    held_out = [line for line in answered if not line.sample.answer]
    context.publish("result", context.manifest(EvalResult, **fields, held_out=Lines(ItemResult, held_out)))
    title = " · ".join([benchmark.title, vlm.name, *filter(None, [TITLES.get(params.control)])])
    asked = benchmark.share(len(lines), sum(bool(unit.sample.answer) for unit in known))
    orders = compare_orders(lines, permuted) if permuted and lines else None
    context.page("table", scores_table(title, found, benchmark.types, f"{asked} with an answer were asked.", orders))
    context.page("examples", page(context, title, lines, {line.video.id: line.video for line in data.lines}))
    unparsed = sum(not line.parsed for line in lines) / max(1, len(lines))
    whole = {metric.name for metric in benchmark.metrics if metric.types is None}  # groups of types: in the table
    totals = {score.name: score.accuracy for score in found if score.name in whole}
    context.metrics("metrics", unparsed=unparsed, **totals)


def items(data: VideoDataset, benchmark: Benchmark, held_out: bool = False) -> list[Unit]:
    """Return the benchmark's items, those without an answer only where they are wanted, file by file, clip by clip.

    Raises:
        DataError: there are none, or one does not fit the benchmark.
    """
    asked = [Unit(line, sample) for line in data.lines for sample in line.samples if sample.protocol == benchmark.name]
    units = sorted((unit for unit in asked if unit.sample.answer or held_out), key=lambda unit: unit.file)
    for unit in units:
        if unit.sample.answer:
            benchmark.check(unit.sample)
    if not units:
        problem = f"no items of {benchmark.title}" + ("" if held_out else " with a known answer")
        raise DataError(problem, source="benchmarks", remedy="check the benchmark's folder and protocol")
    return units


def limited(units: Sequence[Unit], limit: int | None) -> list[Unit]:
    """Return at most `limit` units, those with the smallest sha256(sample id): one new item changes at most one."""
    if limit is None:
        return list(units)
    chosen = set(smallest_by_hash([unit.sample.id for unit in units], limit))
    return [unit for unit in units if unit.sample.id in chosen]


def in_orders(units: Sequence[Unit], count: int) -> list[Unit]:
    """Return each unit in so many cyclic orders of its options, as published first; held-out ones only so."""
    orders = [range(min(count, len(unit.sample.options)) if unit.sample.answer else 1) for unit in units]
    return [unit._replace(shift=shift) for unit, shifts in zip(units, orders, strict=True) for shift in shifts]


def _permuted(unit: Unit, benchmark: Benchmark, entry: Entry) -> PermutedReply:
    sample, reply = unit.sample, entry.numbers["reply"]
    shown = moved(sample.options, unit.shift)
    letter, rule = parse_reply(reply, shown, letters=benchmark.shows_letters)
    parsed = published_letter(letter, sample.options, unit.shift) if letter else ""
    judgement = {"reply": reply, "parsed": parsed, "rule": rule, "correct": parsed == sample.answer}
    return PermutedReply(sample=sample.id, shift=unit.shift, key=entry.key, **judgement)


STEP = Step(
    name="benchmark_eval",
    version="3",
    title="7 · Benchmark",
    unit="item",
    device="gpu",
    params=Params,
    run=run,
    inputs={"videos": VideoDataset, "model": TunedModel},
    outputs={"result": EvalResult},
    pages={"metrics": "Metrics", "table": "Markdown", "examples": "HTML"},
    forms={"untouched": Form(Untouched, ("videos",)), "tuned": Form(Tuned, ("videos", "model"))},
)
