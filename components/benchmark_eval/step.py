"""Step 7 · benchmark_eval: a benchmark's questions answered by one model, greedily, and scored. A unit is one item.

A reply is remembered by (model, item, viewing, protocol, prompt, longest reply); it is parsed and scored anew each
time, from the remembered words.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field, field_validator

from components.benchmark_eval.page import page, scores_table
from components.benchmark_eval.scores import result, scores
from components.benchmarks.interface import Benchmark, FramePreset, get_benchmark, parse_benchmark
from components.core.artifacts import EvalResult, TunedModel, VideoDataset, VideoLine
from components.core.errors import DataError
from components.core.records import Json, Sample
from components.media.viewing import Viewing
from components.models.vlm.interface import conversation
from components.runtime.chosen_vlm import ChosenVlm, chosen_vlm
from components.runtime.context import Context
from components.runtime.declaration import Form, Step
from components.runtime.parameters import BenchmarkItem, SharedParams, UnitParams, Vlm
from components.store.entries import Entry, WorkFolder


class Params(UnitParams):
    """Parameters of the evaluation (method step 7)."""

    viewing: Viewing = Field(default_factory=lambda: Viewing.model_validate({}), description="frames of the VLM")
    preset: FramePreset = Field("paper", description="`supplement`: InternVL3 sees FAVOR-Bench at 1 fps (its Table 4)")
    max_new_tokens: int | None = Field(None, ge=1, le=8192, description="longest reply; null: the benchmark's own")
    system_prompt: str | None = Field(None, description="system prompt; null: the chat template's own")
    prompt_template: str | None = Field(
        None, description="prompt with `{question}` and `{options}`; null: the benchmark's own"
    )

    @field_validator("prompt_template")
    @classmethod
    def _asks(cls, value: str | None) -> str | None:
        missing = [name for name in ("{question}", "{options}") if value is not None and value.count(name) != 1]
        if missing:
            raise ValueError(f"{' and '.join(missing)} must stand in it once")
        return value


class Tuned(SharedParams):
    """Which benchmark; the model is an input."""

    benchmark: BenchmarkItem


class Untouched(Tuned):
    """Which benchmark and which model."""

    vlm: Vlm


class Unit(NamedTuple):
    """A question about a video."""

    line: VideoLine
    sample: Sample


def run(context: Context[Params, Tuned]) -> None:
    """Answer what is not remembered, then score everything."""
    data = context.input("videos", VideoDataset)
    benchmark = get_benchmark(parse_benchmark(context.shared.benchmark)[0])
    units = items(data, benchmark)
    with chosen_vlm(context, rows=False) as vlm:
        entries = _answers(context, units, benchmark, vlm)
    done = sorted((unit for unit in units if unit.sample.id in entries), key=lambda unit: unit.sample.id)
    lines = [result(*unit, benchmark, entries[unit.sample.id]) for unit in done]
    if not lines:
        raise DataError("no item was answered", source=context.task, remedy="see what was left out and why")
    found = scores(lines, benchmark)
    fields = {"protocol": benchmark.name, "model": vlm.name, "scores": found, "lines": lines}
    context.publish("result", context.manifest(EvalResult, **fields))
    title = f"{benchmark.title} · {vlm.name}"
    context.page("table", scores_table(f"{title} · {benchmark.share(len(lines))}", found, benchmark.types))
    context.page("examples", page(context, title, lines))
    unparsed = sum(not line.parsed for line in lines) / len(lines)
    whole = {metric.name for metric in benchmark.metrics if metric.types is None}  # groups of types: in the table
    totals = {score.name: score.accuracy for score in found if score.name in whole}
    context.metrics("metrics", unparsed=unparsed, **totals)


def items(data: VideoDataset, benchmark: Benchmark, held_out: bool = False) -> list[Unit]:
    """Return the benchmark's items, those without an answer only where they are wanted, in the order of their clips.

    Raises:
        DataError: there are none, or one does not fit the benchmark.
    """
    asked = [Unit(line, sample) for line in data.lines for sample in line.samples if sample.protocol == benchmark.name]
    units = [unit for unit in asked if unit.sample.answer or held_out]
    for unit in units:
        if unit.sample.answer:
            benchmark.check(unit.sample)
    if not units:
        problem = f"no items of {benchmark.title}" + ("" if held_out else " with a known answer")
        raise DataError(problem, source="benchmarks", remedy="check the benchmark's folder and protocol")
    return units


def _answers(context: Context[Params], units: list[Unit], benchmark: Benchmark, chosen: ChosenVlm) -> dict[str, Entry]:
    params = context.params

    def reads(unit: Unit) -> Json:
        return {"video": unit.line.video.id, "sample": unit.sample.id, "protocol": benchmark.name, **chosen.origin}

    def compute(unit: Unit, folder: WorkFolder) -> Json:
        vlm, video = chosen.load(), unit.line.video
        prompt = benchmark.ask(unit.sample.question, unit.sample.options, params.prompt_template)
        talk = conversation(unit.sample, prompt, params.system_prompt)
        viewing = benchmark.viewing(params.viewing, params.preset, vlm.family, video.duration)
        with context.store.borrowed(video.file) as path:
            made, frames = vlm.read(talk, video, path, viewing)
        return {"reply": vlm.generate(made, params.max_new_tokens or benchmark.max_new_tokens), "frames": frames}

    return context.each(units, name=lambda unit: unit.sample.id, reads=reads, compute=compute)


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
