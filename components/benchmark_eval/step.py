"""Step 7 · benchmark_eval: a benchmark's questions answered by one model, greedily, and scored. A unit is one item.

A reply is remembered by (model, item, viewing, protocol); it is parsed and scored anew each time, from the remembered
words. Intervals: Wilson's for a task type, a bootstrap over videos for Overall and Average, since questions of one
video are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from components.benchmark_eval.page import page, scores_table
from components.benchmarks.parse import official_correct, parse_reply
from components.benchmarks.protocols import Metric, Protocol, get_protocol, viewing_for
from components.core.artifacts import EvalResult, ItemResult, Score, TunedModel, VideoDataset, VideoLine
from components.core.errors import DataError
from components.core.records import Json, Sample
from components.media.viewing import Viewing
from components.quality.statistics import Interval, bootstrap, wilson
from components.runtime.chosen_vlm import ChosenVlm, chosen_vlm
from components.runtime.context import Context
from components.runtime.declaration import Form, Step
from components.runtime.parameters import StepParams
from components.store.entries import Entry, WorkFolder


class Params(StepParams):
    """Parameters of the evaluation (method step 7)."""

    viewing: Viewing = Field(default_factory=lambda: Viewing.model_validate({}), description="frames of the VLM")
    preset: Literal["paper", "supplement"] = Field(
        "paper", description="`supplement`: InternVL3 sees FAVOR-Bench at 1 fps (its Table 4)"
    )


@dataclass(frozen=True)
class Unit:
    """A question about a video."""

    line: VideoLine
    sample: Sample


def run(context: Context[Params]) -> None:
    """Answer what is not remembered, then score everything."""
    data = context.input("videos", VideoDataset)
    protocol = get_protocol(context.scalars.benchmark.split("=", 1)[0])
    units = items(data, protocol)
    with chosen_vlm(context, rows=False) as vlm:
        entries = _answers(context, units, protocol, vlm)
    answered = [_result(unit, protocol, entry) for unit in units if (entry := entries.get(unit.sample.id)) is not None]
    lines = sorted(answered, key=lambda line: line.sample.id)
    if not lines:
        raise DataError("no item was answered", source=context.task, remedy="see what was left out and why")
    found = scores(lines, protocol)
    context.publish(
        "result", context.manifest(EvalResult, protocol=protocol.name, model=vlm.name, scores=found, lines=lines)
    )
    title = f"{protocol.title} · {vlm.name}"
    context.page("table", scores_table(title, found))
    context.page("examples", page(context, title, lines))
    unparsed = sum(not line.parsed for line in lines) / len(lines)
    totals = {metric.name for metric in protocol.metrics if metric.types is None}  # groups of types stand in the table
    context.metrics(
        "metrics", unparsed=unparsed, **{score.name: score.accuracy for score in found if score.name in totals}
    )


def items(data: VideoDataset, protocol: Protocol) -> list[Unit]:
    """The benchmark's items with a known answer (held-out ones cannot be scored).

    Raises:
        DataError: there are none, or an item does not fit the protocol.
    """
    units = [
        Unit(line, sample)
        for line in data.lines
        for sample in line.samples
        if sample.protocol == protocol.name and sample.answer
    ]
    for unit in units:
        protocol.check(unit.sample)
    if not units:
        problem = f"no items of {protocol.title} with a known answer"
        raise DataError(problem, source="benchmarks", remedy="check the benchmark's folder and protocol")
    return units


def _answers(context: Context[Params], units: list[Unit], protocol: Protocol, chosen: ChosenVlm) -> dict[str, Entry]:
    params = context.params

    def reads(unit: Unit) -> Json:
        return {"video": unit.line.video.id, "sample": unit.sample.id, "protocol": protocol.name, **chosen.origin}

    def compute(unit: Unit, folder: WorkFolder) -> Json:
        from components.models.vlm.input import conversation, example

        vlm, video = chosen.load(), unit.line.video
        prompt = protocol.prompt(unit.sample.question, unit.sample.options)
        viewing = viewing_for(params.viewing, params.preset, protocol.name, vlm.family, video.duration)
        with context.store.borrowed(video.file) as path:
            made, frames = example(vlm, viewing, video, path, conversation(unit.sample, prompt))
        return {"reply": vlm.generate(made, protocol.max_new_tokens), "frames": frames}

    return context.each(units, name=lambda unit: unit.sample.id, reads=reads, compute=compute)


def _result(unit: Unit, protocol: Protocol, entry: Entry) -> ItemResult:
    sample, reply = unit.sample, entry.numbers["reply"]
    parsed = parse_reply(reply, sample.options, letters=protocol.shows_letters)
    return ItemResult(
        video=unit.line.video,
        mask=unit.line.mask,
        sample=sample,
        key=entry.key,
        reply=reply,
        parsed=parsed.letter or "",
        rule=parsed.rule,
        correct=parsed.letter == sample.answer,
        official_correct=official_correct(protocol.name, reply, sample.options, sample.answer),
        frames=entry.numbers["frames"],
    )


def scores(lines: list[ItemResult], protocol: Protocol) -> list[Score]:
    """Each task type with Wilson's interval, then the protocol's totals and its official rule with a bootstrap over videos."""
    typed = [(line, protocol.task_type(line.sample.question_type, f"item {line.sample.uid}")) for line in lines]
    found = []
    for kind in dict.fromkeys(protocol.types.values()):
        chosen = [line for line, name in typed if name == kind]
        if chosen:
            found.append(_score(kind, chosen, wilson(sum(line.correct for line in chosen), len(chosen))))
    totals = [_total(metric, typed) for metric in protocol.metrics]
    official = _resampled(typed, [line.official_correct for line in lines]).overall
    right = sum(line.official_correct for line in lines)
    return [*found, *(score for score in totals if score), _score("Official rule", lines, official, right)]


def _total(metric: Metric, typed: list[tuple[ItemResult, str]]) -> Score | None:
    """One printed number; None where the data hold none of its task types."""
    chosen = [(line, name) for line, name in typed if metric.types is None or name in metric.types]
    if not chosen:
        return None
    drawn = _resampled(chosen, [line.correct for line, _ in chosen])
    return _score(metric.name, [line for line, _ in chosen], drawn.average if metric.kind == "macro" else drawn.overall)


def _resampled(typed: list[tuple[ItemResult, str]], correct: list[bool]) -> Any:
    return bootstrap(correct, [line.video.id for line, _ in typed], [name for _, name in typed])


def _score(name: str, lines: list[ItemResult], share: Interval, right: int | None = None) -> Score:
    return Score(
        name=name,
        n=len(lines),
        correct=sum(line.correct for line in lines) if right is None else right,
        accuracy=100 * share.value,
        low=100 * share.low,
        high=100 * share.high,
        unparsed=sum(not line.parsed for line in lines),
    )


STEP = Step(
    name="benchmark_eval",
    version="2",
    title="7 · Benchmark",
    unit="item",
    device="gpu",
    params=Params,
    run=run,
    inputs={"videos": VideoDataset, "model": TunedModel},
    outputs={"result": EvalResult},
    pages={"metrics": "Metrics", "table": "Markdown", "examples": "HTML"},
    forms={
        "untouched": Form(inputs=("videos",), scalars=("vlm", "benchmark")),
        "tuned": Form(inputs=("videos", "model"), scalars=("benchmark",)),
    },
)
