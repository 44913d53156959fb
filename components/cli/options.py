"""Options that `run`, `plan` and `submit` share: what a pipeline's parameters are given, declared once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from components.core.errors import ParameterError
from components.kubeflow.arguments import (
    PIPELINES,
    nested,
    parse_assignments,
    pipeline,
    read_arguments,
    with_absolute_paths,
)
from components.kubeflow.descriptions import help_of, shared_fields
from components.runtime.declaration import declared
from components.runtime.parameters import pipeline_default

PANEL = "Parameters of the pipeline"
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="any parameter: NAME=VALUE or params_<step>.FIELD=VALUE, VALUE is JSON or text; repeatable",
        rich_help_panel=PANEL,
    ),
]

Image = Annotated[str, typer.Option(help="name@sha256:… that every step runs in; without it, the lock's images")]
Lock = Annotated[Path, typer.Option(help="file with both images, from `images lock`")]


def _option(name: str, metavar: str, **more: Any) -> Any:
    return typer.Option(f"--{name}", metavar=metavar, help=help_of(name), rich_help_panel=PANEL, **more)


@dataclass(frozen=True)
class PipelineOptions:
    """What the command line gives to a pipeline."""

    source: Annotated[str | None, _option("source", "DIR")] = None
    priors: Annotated[str | None, _option("priors", "DIR|DIGEST")] = None
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROTOCOL=DIR", help="one of `benchmarks`, e.g. favor=DIR; repeatable", rich_help_panel=PANEL
        ),
    ] = None
    vdm: Annotated[str | None, _option("vdm", "NAME|DIR")] = None
    vlm: Annotated[str | None, _option("vlm", "NAME|DIR")] = None
    native_size: Annotated[
        bool,
        typer.Option(
            "--native-size",
            help="read clips at the frames, height and width that the video model was made for, as `look` does",
            rich_help_panel=PANEL,
        ),
    ] = False
    shards: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=100, help="number of parts that run side by side", rich_help_panel=PANEL),
    ] = None
    store: Annotated[str | None, _option("store", "URI")] = None
    arguments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON file with parameters by name, for those not given here", rich_help_panel=PANEL
        ),
    ] = None
    assignments: Assignments = None

    def values(self, known: dict[str, Any]) -> dict[str, Any]:
        """Return arguments by parameter: of the file, over it those of the options, over these those of `--set`.

        Args:
            known: the pipeline's parameters with their defaults.

        Raises:
            ParameterError: a parameter that the pipeline has not, or a file that cannot be read.
        """
        given = nested(read_arguments(self.arguments), known, str(self.arguments))
        for name, value in self._named().items():
            if name not in known:
                source = "--benchmark" if name == "benchmarks" else f"--{name}"
                raise ParameterError(
                    f"this pipeline has no parameter {name!r}", source=source, remedy=f"it has {', '.join(known)}"
                )
            given[name] = value
        if self.native_size:
            from components.cli.look import model_size

            part = "params_ddim_inversion"
            given[part] = {**known[part], **given.get(part, {}), **model_size(given.get("vdm", known["vdm"]))}
        return given | parse_assignments(self.assignments, {**known, **given})

    def _named(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("source", "priors", "vdm", "vlm", "store")}
        shards = None if self.shards is None else [f"{k}/{self.shards}" for k in range(self.shards)]
        named = {**plain, "benchmarks": self.benchmark, "shards": shards}
        return {name: value for name, value in named.items() if value is not None}

    def local_values(self, known: dict[str, Any]) -> dict[str, Any]:
        """Return arguments as `values` does, for a run here: folders, those of defaults too, as absolute paths."""
        folders = {name: value for name, value in known.items() if name in ("source", "priors", "benchmarks")}
        return with_absolute_paths(folders | self.values(known))


def pipeline_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the fields of `PipelineOptions` as options; it takes them as its parameter `given`."""
    hints = get_type_hints(command, include_extras=True)
    shared = get_type_hints(PipelineOptions, include_extras=True)
    own = [item for item in signature(command).parameters.values() if item.name != "given"]
    parameters = [item.replace(annotation=hints[item.name], kind=Parameter.KEYWORD_ONLY) for item in own]
    parameters += [
        Parameter(item.name, Parameter.KEYWORD_ONLY, default=item.default, annotation=shared[item.name])
        for item in fields(PipelineOptions)
    ]

    @wraps(command)
    def called(**values: Any) -> None:
        given = PipelineOptions(**{item.name: values.pop(item.name) for item in fields(PipelineOptions)})
        command(**values, given=given)

    called.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {item.name: item.annotation for item in parameters}
    return called


class PipelineCommand(TyperCommand):
    """A command whose help ends with the pipelines and their parameters."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        super().format_help(ctx, formatter)
        for title, rows in pipelines_help().items():
            with formatter.section(title):
                formatter.write_dl(rows)


def pipelines_help() -> dict[str, list[tuple[str, str]]]:
    """Return names and help of the pipelines, of their parameters, and of the parameters that follow a pattern."""
    forms = declared("plan").forms
    summaries = {name: pipeline(name).description.split("\n")[0] for name in PIPELINES}
    return {
        "Pipelines": [
            (name, f"{summary} Parameters: {', '.join(forms[name].shared.model_fields)}.")
            for name, summary in summaries.items()
        ],
        "Their parameters": [
            (name, f"{field.description} (default: {_shown(pipeline_default(field))})")
            for name, field in shared_fields().items()
        ],
        "Parameters by pattern": [
            ("params_<step>.FIELD", "a field of one step's own parameters; listed in docs/reference.md"),
            ("rerun_<task>", f"{help_of('rerun_<task>')} (default: 0)"),
        ],
    }


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > 2:
        return f"{value[0]} … {value[-1]}"
    return value if isinstance(value, str) else json.dumps(value)
