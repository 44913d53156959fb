"""The generated tables of the documents: `python -m docs.generate` writes them between the markers of each page.

Tables come from what they describe: steps and parameters from their declarations, costs from `plan/cost.py` at the
published sizes, sizes of a run's record from `plan/run_size.json`, what a parameter starts again from the compiled
pipelines, decisions from `decisions.json` and the declarations.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from components.core.errors import ParameterError
from components.core.units import readable_bytes
from components.kubeflow.arguments import PIPELINES
from components.kubeflow.descriptions import fields, shared_fields
from components.kubeflow.task_graph import Tasks, followers, parameter_tasks, task_graph, usual_order
from components.kubeflow.tree import ROOT
from components.media.viewing import Viewing
from components.models.video.interface import Sizes
from components.pages import markdown
from components.plan.cost import A100_FLOPS, ClipCost
from components.plan.run_size import ARGO, CLIENT, ETCD, RunSize, estimated
from components.runtime.declaration import declared
from components.runtime.parameters import UnitParams, is_operational, pipeline_default
from components.sft.page import position_gaps
from components.steps import STEPS

log = logging.getLogger(__name__)
DOCS = ROOT / "docs"
SOURCES = {
    "plan": "parameters, sources",
    "dataset_import": "videos, questions",
}  # what steps without an input artifact read
GPUS = {"sft": "8 GPUs"}  # the others take one
ALONE = tuple(name for name in PIPELINES if name != "ablations")  # whose tasks work on one set of parameters

# Published sizes: layers, heads, width, text tokens, latent channels, patch, temporal patch, pixels and frames per
# latent
COGVIDEOX = Sizes(42, 48, 3072, 226, 16, 2, 1, 8, 4, (49, 480, 720))
COGVIDEOX_1_5 = Sizes(42, 48, 3072, 226, 16, 2, 2, 8, 4, (81, 768, 1360))
HUNYUANVIDEO = Sizes(60, 24, 3072, 256, 16, 2, 1, 8, 4, (129, 720, 1280), distilled=True)
CASES = (
    ("CogVideoX-5B", COGVIDEOX, (49, 480, 720)),
    ("CogVideoX-5B", COGVIDEOX, (25, 480, 720)),
    ("CogVideoX1.5-5B", COGVIDEOX_1_5, (81, 768, 1360)),
    ("HunyuanVideo", HUNYUANVIDEO, (129, 720, 1280)),
    ("HunyuanVideo", HUNYUANVIDEO, (49, 480, 720)),
)
_COLLECTED = {"report": "benchmarks", "comparison": "benchmarks and trainings"}  # what their lists are over
WORDS = 40
VIDEOS = 25_000


@cache
def reached(name: str) -> dict[str, set[str]]:
    """Return which tasks each parameter of a pipeline reaches directly."""
    return parameter_tasks(getattr(import_module("pipeline"), name).pipeline_spec)


@cache
def graph(name: str) -> Tasks:
    """Return the task graph of a pipeline."""
    return task_graph(getattr(import_module("pipeline"), name).pipeline_spec)


# Formatting -----------------------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of GitHub's table of Markdown cells; a placeholder such as `<step>` stays visible in it."""
    cells = [[re.sub(r"<(?=[a-z])", "&lt;", cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in cells]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]


def code(value: Any) -> str:
    """Return a value as it is written in JSON, bare where it is text; a dash for none."""
    if value is None:
        return "–"
    return markdown.code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def bounds(field: FieldInfo) -> str:
    """Return a field's choices or bounds."""
    choices = [
        choice
        for part in (field.annotation, *get_args(field.annotation))
        if get_origin(part) is Literal
        for choice in get_args(part)
    ]
    if choices:
        return " ".join(code(choice) for choice in choices)
    if field.annotation is bool:
        return "`true` `false`"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in signs.items()
        if hasattr(item, name)
    ]
    lengths = {"min_length": "at least", "max_length": "at most"}
    kind = "character" if field.annotation is str else "item"
    for item in field.metadata:
        found += [
            f"{text} {(n := getattr(item, name))} {kind}{'s' * (n > 1)}"
            for name, text in lengths.items()
            if hasattr(item, name)
        ]
    return ", ".join(found) or "–"


def default_of(field: FieldInfo) -> str:
    """Return a field's default as code."""
    return code(field.get_default(call_default_factory=True, validated_data={}))


# The parts ------------------------------------------------------------------------------------------------------------


def steps_part() -> list[str]:
    """Return what each step reads, writes and runs on."""
    rows = []
    for step in map(declared, STEPS):
        reads = [
            f"{kind[0].KIND} of all shards" if isinstance(kind, list) else kind.KIND for kind in step.inputs.values()
        ]
        if step.name in _COLLECTED:
            reads = [text.replace("shards", _COLLECTED[step.name]) for text in reads]
        values = dict.fromkeys(value for name in step.forms for value in step.form(name).values)
        writes = [kind.KIND for kind in step.outputs.values()] or [", ".join(values)]
        device = "CPU" if step.device == "cpu" else GPUS.get(step.name, "GPU")
        title = f"[`{step.name}`](../components/{step.name})"
        rows.append(
            [title, ", ".join(dict.fromkeys(reads)) or SOURCES[step.name], ", ".join(writes), step.unit, device]
        )
    return table(["step", "reads", "writes", "unit of work", "device"], rows)


def shared_part() -> list[str]:
    """Return the pipeline parameters that people change most or that several steps share."""
    inputs = {name: spec for pipeline in PIPELINES for name, spec in _inputs(pipeline).items()}
    rows = []
    for name, field in shared_fields().items():
        if name in inputs:
            owners = [pipeline for pipeline in PIPELINES if name in reached(pipeline)]
            where = "all" if owners == list(PIPELINES) else ", ".join(f"`{owner}`" for owner in owners)
            rows.append([f"`{name}`", code(inputs[name].default), bounds(field), where, field.description or ""])
    return table(["parameter", "default", "bounds", "pipelines", "what it is"], rows)


def _inputs(pipeline: str) -> dict[str, Any]:
    found: dict[str, Any] = getattr(import_module("pipeline"), pipeline).component_spec.inputs
    return found


def parameters_part() -> list[str]:
    """Return each step's own parameters."""
    common = set(UnitParams.model_fields)
    lines = ["Every step with units that may fail", "", *_parameter_table(fields(UnitParams))]
    for name in STEPS:
        if own := [item for item in fields(declared(name).params) if item[0] not in common]:
            lines += ["", f"`params_{name}`", "", *_parameter_table(own)]
    return lines


def _parameter_table(items: list[tuple[str, FieldInfo]]) -> list[str]:
    rows = [
        [f"`{name}`{' †' if is_operational(field) else ''}", default_of(field), bounds(field), field.description or ""]
        for name, field in items
    ]
    return table(["field", "default", "bounds", "what it is"], rows)


def costs_part() -> list[str]:
    """Return the video model's cost at published sizes: of one sample, and of the paper's number of videos."""
    steps = pipeline_default(shared_fields()["num_steps"])
    rows_sampled = int(declared("attention_capture").params.model_fields["rows"].default)
    rows = []
    for name, model, size in CASES:
        clip = ClipCost(model, *size)
        inversion = clip.inversion(steps, 0) / A100_FLOPS
        capture = clip.capture(steps, rows_sampled, memory=True, guided=not model.distilled) / A100_FLOPS
        rows.append(
            [
                name,
                f"{size[0]} × {size[1]} × {size[2]}",
                f"{clip.tokens:,}".replace(",", " "),
                f"{inversion:.1f} s",
                f"{capture:.1f} s",
                readable_bytes(clip.trajectory_bytes(steps, 2)),
                readable_bytes(clip.map_bytes(WORDS)),
                readable_bytes(clip.map_bytes(WORDS, selected=True)),
                f"{(inversion + capture) * VIDEOS / 3600:.0f} h, {readable_bytes(VIDEOS * clip.map_bytes(WORDS))}; "
                f"selected: {readable_bytes(VIDEOS * clip.capture_bytes(WORDS, selected=True))}",
            ]
        )
    head = [
        "model",
        "frames × height × width",
        "S",
        "inversion",
        "capture",
        "trajectory",
        f"t2v, {WORDS} words",
        "`keep: selected`",
        f"{VIDEOS // 1000}k videos",
    ]
    return table(head, rows)


def reruns_part() -> list[str]:
    """Return which tasks a changed parameter executes again: those it reaches, and what follows from them.

    A row is `motion_enhancer`'s; another pipeline has one of its own where the same parameter does something else
    there.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for pipeline in reversed(ALONE):
        for name in sorted(reached(pipeline)):
            if _tasks_again(pipeline, name) != _tasks_again(ALONE[-1], name) & set(graph(pipeline)):
                groups.setdefault((pipeline, tuple(_executed(pipeline, name))), []).append(f"`{name}` ({pipeline})")
            elif pipeline == ALONE[-1]:
                groups.setdefault((pipeline, tuple(_executed(pipeline, name))), []).append(f"`{name}`")
    rows = []
    for (pipeline, first), names in groups.items():
        after = followers(graph(pipeline), set(first)) - set(first)
        order = usual_order(graph(pipeline))
        shown = [" ".join(f"`{task}`" for task in order if task in some) or "–" for some in (first, after)]
        place = usual_order(graph(ALONE[-1])).index(first[0] if first else "plan")
        rows.append((place, [" ".join(names), *shown]))
    return table(
        ["parameter", "executes", "and what follows"], [row for _, row in sorted(rows, key=lambda item: item[0])]
    )


def _tasks_again(pipeline: str, name: str) -> set[str]:
    """Return all tasks that a changed parameter executes; none where the pipeline has no such parameter."""
    return followers(graph(pipeline), set(_executed(pipeline, name)) if name in reached(pipeline) else set())


def _executed(pipeline: str, name: str) -> list[str]:
    """Return the tasks that a parameter, or its digest from `plan`, reaches; in order, without `plan` itself."""
    tasks = graph(pipeline)
    digest = f"{name.removesuffix('s')}_digest"
    found = reached(pipeline)[name] | {task for task, producers in tasks.items() if ("plan", digest) in producers}
    return [task for task in usual_order(tasks) if task in found - {"plan"}]


def decisions_part() -> list[str]:
    """Return where the paper is silent or contradicts itself: parameter, default, other values, the paper, why."""
    rows = []
    for item in json.loads(Path(__file__).with_name("decisions.json").read_text(encoding="utf-8")):
        shared = item["step"] == "shared"
        field = (shared_fields() if shared else dict(fields(declared(item["step"]).params)))[item["field"]]
        default = code(pipeline_default(field)) if shared else default_of(field)
        others = " ".join(
            value for value in bounds(field).split() if value.startswith("`") and value != default
        ) or item.get("others", "–")
        place = "" if shared else f"{item['step']}."
        rows.append([f"`{place}{item['field']}`", default, others, item["paper"], item["why"]])
    return table(["decision", "default", "other values", "the paper", "why"], rows)


def factor_part() -> list[str]:
    """Return the factor between the default alignment loss and the supplement's."""
    factors = [
        f"{model.tokens(*size):,} ({name}, {size[0]} frames)".replace(",", " ", 1) for name, model, size in CASES
    ]
    return [
        "`row_norm: mean1` with `distance: mse` (default) is V times `sum1` with `sse` (supplement eqs. 22–24), in "
        "value and gradient; V is the number of cells that both models see. "
        f"Where the VLM sees the whole clip V = S: {', '.join(factors)}. "
        "So λ = 1 here is λ = V there."
    ]


def positions_part() -> list[str]:
    """Return by how many positions the rules of `viewing.positions` differ, at the default viewing."""
    return table(*position_gaps(Viewing.model_validate({})))


def record_part() -> list[str]:
    """Return how large the record of a run becomes, and from how many shards on that forbids something."""

    def size(shards: int, benchmarks: int = 1) -> RunSize:
        return estimated("motion_enhancer", shards, benchmarks)

    def row(name: str, found: RunSize) -> list[str]:
        return [name, str(found.nodes), readable_bytes(found.whole), readable_bytes(found.packed)]

    def first(limit: int, field: str) -> int:
        return next(shards for shards in itertools.count(1) if getattr(size(shards), field) > limit)

    least = len(pipeline_default(shared_fields()["shards"]))
    rows = [row("`motion_enhancer` with its defaults", size(least))]
    rows += [row("each further shard", size(least + 1) - size(least))]
    rows += [row("each further benchmark", size(least, 2) - size(least))]
    dealt = len(pipeline_default(shared_fields()["trial_shards"]))
    ablations = [estimated("ablations", least, 1, parts) for parts in (dealt, dealt + 1)]
    rows += [row("`ablations` with its defaults", ablations[0])]
    rows += [row("each further part of its trainings", ablations[1] - ablations[0])]
    limits: list[tuple[int, int, str]] = [
        (first(ETCD, "whole"), ETCD, "the *Retry* of KFP's UI, by an etcd that is not configured otherwise"),
        (first(CLIENT, "whole"), CLIENT, "the *Retry* of KFP's UI, by any Kubernetes API server"),
        (first(ARGO, "packed"), ARGO, "the run itself: Argo, which compresses the nodes above that size, ends it"),
    ]
    refused = [[str(count), readable_bytes(limit), what] for count, limit, what in limits]
    return [
        *table(["", "nodes", "bytes", "compressed"], rows),
        "",
        *table(["from how many shards", "more than", "what is refused"], refused),
    ]


PAGES: dict[str, dict[str, Callable[[], list[str]]]] = {
    "reference.md": {
        "steps": steps_part,
        "shared": shared_part,
        "parameters": parameters_part,
        "reruns": reruns_part,
    },
    "decisions.md": {"decisions": decisions_part, "factor": factor_part, "positions": positions_part},
    "costs.md": {"costs": costs_part},
    "cluster.md": {"record": record_part},
}
_PART = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end: \2 -->)", re.DOTALL)


def refresh(name: str, text: str) -> str:
    """Return the text of a page with each generated part written anew.

    Raises:
        ParameterError: a part is missing, unknown, there twice, or has no end.
    """
    parts = PAGES[name]
    ended = [match[1] for match in _PART.findall(text)]
    opened = re.findall(r"<!-- generated: (\S+) -->", text)
    if sorted(opened) != sorted(parts) or ended != opened:
        raise ParameterError(
            f"generated parts {opened}, ended {ended}",
            source=name,
            remedy=f"each once, with its end: {', '.join(parts)}",
        )
    return _PART.sub(lambda match: "\n".join([match[1], *parts[match[2]](), "", match[4]]), text)


def main() -> None:
    """Write all generated parts anew."""
    for name in PAGES:
        page = DOCS / name
        before = page.read_text(encoding="utf-8")
        after = refresh(name, before)
        page.write_text(after, encoding="utf-8")
        log.info("%s: %s", name, "was up to date" if after == before else "written")


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(message)s")
    main()
