"""Options that `run`, `plan` and `submit` share: what a pipeline's parameters are given, declared once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

from typer import Option
from typer.core import TyperCommand

from components.cli.look import model_size
from components.cli.run_folder import read_record
from components.core.errors import ParameterError
from components.kubeflow.arguments import nested, pipeline, read_arguments, split_assignments, with_absolute_paths
from components.kubeflow.descriptions import help_of, shared_fields
from components.kubeflow.tree import run_store
from components.runtime.declaration import declared
from components.runtime.parameters import items_of, pipeline_default
from components.runtime.presets import PRESETS

_OPTIONS = {"benchmarks": "benchmark", "variants": "preset"}  # whose name is not their parameter's
_option = partial(Option, rich_help_panel="Parameters of the pipeline")
_BENCHMARK = "one of `benchmarks`, e.g. favor=DIR; repeatable"
_NATIVE_SIZE = "read clips at the frames, height and width that the video model was made for, as `look` does"
_SHARDS = "number of parts that run side by side"
_TRIAL_SHARDS = "number of parts that the trainings are dealt out to"
_PRESET = f"variants that are there, in place of `variants`: {', '.join(PRESETS)}; repeatable"
_ARGUMENTS = "JSON file with parameters by name, for those not given here"
_SET = "any parameter: NAME=VALUE or params_<step>.FIELD=VALUE, VALUE is JSON or text; repeatable"
Assignments = Annotated[list[str] | None, _option("--set", metavar="NAME=VALUE", help=_SET)]
Preset = Annotated[list[str] | None, _option("--preset", metavar="NAME", help=_PRESET)]
Image = Annotated[str, Option(help="name@sha256:… that every step runs in; without it, the lock's images")]
Lock = Annotated[Path, Option(help="file with both images, from `images lock`")]


@dataclass(frozen=True)
class PipelineOptions:
    """What the command line gives to a pipeline."""

    source: Annotated[list[str] | None, _option(metavar="DIR", help=f"{help_of('source')}; repeatable")] = None
    priors: Annotated[list[str] | None, _option(metavar="DIR|DIGEST", help=f"{help_of('priors')}; repeatable")] = None
    benchmark: Annotated[list[str] | None, _option(metavar="PROTOCOL=DIR", help=_BENCHMARK)] = None
    vdm: Annotated[str | None, _option(metavar="NAME|DIR", help=help_of("vdm"))] = None
    vlm: Annotated[str | None, _option(metavar="NAME|DIR", help=help_of("vlm"))] = None
    native_size: Annotated[bool, _option("--native-size", help=_NATIVE_SIZE)] = False
    shards: Annotated[int | None, _option(metavar="N", min=1, max=100, help=_SHARDS)] = None
    preset: Preset = None
    trial_shards: Annotated[int | None, _option(metavar="N", min=1, max=100, help=_TRIAL_SHARDS)] = None
    store: Annotated[str | None, _option(metavar="URI", help=help_of("store"))] = None
    arguments: Annotated[Path | None, _option(metavar="FILE", help=_ARGUMENTS)] = None
    assignments: Assignments = None

    def values(self, known: dict[str, Any]) -> dict[str, Any]:
        """Return arguments by parameter: of the file, over it those of the options, over these those of `--set`.

        Args:
            known: the pipeline's parameters with their defaults.

        Raises:
            ParameterError: a parameter that the pipeline has not, or a file that cannot be read.
        """
        given = nested(read_arguments(self.arguments), known, str(self.arguments))
        named = {name: getattr(self, name) for name in ("vdm", "vlm", "store")}
        named |= {"source": _together(self.source, "source"), "priors": _together(self.priors, "priors")}
        named |= {name: _parts(getattr(self, name)) for name in ("shards", "trial_shards")}
        for name, value in {**named, "benchmarks": self.benchmark, "variants": self.preset}.items():
            if value is None:
                continue
            if name not in known:
                source = f"--{_OPTIONS.get(name, name).replace('_', '-')}"
                problem, remedy = f"this pipeline has no parameter {name!r}", f"it has {', '.join(known)}"
                raise ParameterError(problem, source=source, remedy=remedy)
            given[name] = value
        assigned = split_assignments(self.assignments)
        if self.native_size:
            if (part := "params_ddim_inversion") not in known:
                raise ParameterError("this pipeline reads no clips", source="--native-size", remedy="leave it out")
            vdm = {**known, **given, **assigned}["vdm"]
            given[part] = {**known[part], **given.get(part, {}), **model_size(vdm)}
        return given | nested(assigned, {**known, **given}, "--set")

    def local_values(self, known: dict[str, Any], out: Path) -> tuple[str, dict[str, Any]]:
        """Return the store of a run here, and its arguments: folders, those of defaults too, as absolute paths.

        Without a store the folder's earlier runs name it, and the first run takes `<out>/store`. Where the code has
        uncommitted changes, the store among the arguments is its own part of that one.
        """
        folders = {name: known[name] for name in ("source", "priors", "benchmarks") if name in known}
        values = with_absolute_paths(folders | self.values(known))
        before = read_record(out)
        store = values.get("store") or (before.store if before else (out.absolute() / "store").as_uri())
        return store, {**values, "store": run_store(store)}


def _parts(count: int | None) -> list[str] | None:
    return None if count is None else [f"{k}/{count}" for k in range(count)]


def _together(given: list[str] | None, name: str) -> str | None:
    """Return what an option was given: its text, or where it was given more than once a JSON list of all items."""
    if not given or len(given) == 1:
        return given[0] if given else None
    items = [item for text in given for item in items_of(text, f"--{name}")]
    return json.dumps(items, ensure_ascii=False)


def pipeline_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the fields of `PipelineOptions` as options; it takes them as its parameter `given`."""
    shared = signature(PipelineOptions, eval_str=True).parameters
    own = signature(command, eval_str=True).parameters
    together = [*(item for item in own.values() if item.name != "given"), *shared.values()]
    parameters = [item.replace(kind=Parameter.KEYWORD_ONLY) for item in together]

    @wraps(command)
    def called(**values: Any) -> None:
        given = PipelineOptions(**{name: values.pop(name) for name in shared})
        command(**values, given=given)

    called.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {item.name: item.annotation for item in parameters}
    return called


class PipelineCommand(TyperCommand):
    """A command whose help ends with the pipelines and their parameters."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        super().format_help(ctx, formatter)
        pipelines = [
            (name, f"{pipeline(name).description.splitlines()[0]} Parameters: {', '.join(form.shared.model_fields)}.")
            for name, form in declared("plan").forms.items()
        ]
        parameters = [
            (name, f"{field.description} (default: {_shown(pipeline_default(field))})")
            for name, field in shared_fields().items()
        ]
        patterns = [
            ("params_<step>.FIELD", "a field of one step's own parameters; listed in docs/reference.md"),
            ("rerun_<task>", f"{help_of('rerun_<task>')} (default: 0)"),
        ]
        parts = {"Pipelines": pipelines, "Their parameters": parameters, "Parameters by pattern": patterns}
        for title, rows in parts.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > 2:
        return f"{value[0]} … {value[-1]}"
    return value if isinstance(value, str) else json.dumps(value)
