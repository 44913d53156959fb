"""`motion-enhancer step`: one task in this process, with the same contract as its container."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option

from components.cli.options import Assignments, Preset
from components.core.errors import ParameterError
from components.core.job import start_logging
from components.core.records import Json
from components.kubeflow.arguments import parse_assignments, parse_value
from components.runtime.declaration import Step, declared
from components.runtime.parameters import SharedParams, validated
from components.runtime.runner import executor_input, run_task
from components.runtime.variants import LISTED, VariedParams, parse_variants, refuse_unknown

_IN = "INPUT=FOLDER, an artifact's folder; repeat for collected inputs"
_RERUN = "anything but 0: check remembered files; force…: compute everything, once for each such nonce"
_TASK = "the task's name where it is not the step's, e.g. tuned_eval; stands in manifests and in errors"


def step(
    name: Annotated[str, Argument(help="a step, e.g. attention_capture")],
    store: Annotated[str, Option(help="file:///folder or minio://bucket/prefix")],
    out: Annotated[Path, Option(help="folder for the outputs")],
    inputs: Annotated[list[str] | None, Option("--in", help=_IN)] = None,
    assignments: Assignments = None,
    preset: Preset = None,
    params: Annotated[str, Option(help="the step's parameters as JSON; --set params_<step>.FIELD wins")] = "{}",
    rerun: Annotated[str, Option(help=_RERUN)] = "0",
    task: Annotated[str, Option(help=_TASK)] = "",
) -> None:
    """Run one step in this process, with the same contract as its container.

    With `--preset NAME` or `--set variants='[…]'` it runs once for each variant, as its task in `ablations`.
    """
    found = declared(name)
    values = {**_values(found, assignments, preset, params), "store": store, "rerun": rerun}
    request = executor_input(found, out, values, _folders(found, inputs or ()))
    start_logging()
    raise Exit(run_task(found, task or name, json.dumps(request)))


def settable(step: Step[Any]) -> set[str]:
    """Return the parameters that `--set` takes: those of a step's forms but the store, and of its varied form.

    There a list of seeds or of benchmarks stands for one, and trainings may be dealt out.
    """
    shared = {name for form in step.forms or [""] for name in step.form(form).shared.model_fields} - {"store"}
    found = {*shared, f"params_{step.name}"}
    if "baseline" in shared:  # what compares variants reads them from its inputs
        return found
    lists = {name for name, single in LISTED.items() if single in shared}
    return found | lists | {"variants"} | ({"trial_shard"} if "seeds" in lists else set())


def _values(step: Step[Any], assignments: list[str] | None, preset: list[str] | None, params: str) -> Json:
    """Return the parameters of KFP's executor input, but store and rerun.

    Raises:
        ParameterError: a parameter that the step has not, or variants that change what is no parameter of `ablations`.
    """
    if not isinstance(parsed := parse_value(params), dict):
        raise ParameterError(f"no JSON object: {params}", source="--params", remedy='e.g. {"pictures": 0}')
    own = f"params_{step.name}"
    known = {**dict.fromkeys(settable(step)), own: {**step.defaults(), **parsed}}
    given = {"variants": preset} if preset else {}
    values = {**SharedParams.pipeline_defaults(), **given, **parse_assignments(assignments, known)}
    listed = {name: values[name] for name in VariedParams.model_fields if name in values}
    if "variants" in listed:  # `plan`, which checks this in a pipeline, does not run here
        variants = parse_variants(validated(VariedParams, listed, "--set").variants)
        refuse_unknown(variants, declared("plan").form("ablations").names)
    values["params"] = values.pop(own, parsed)
    return values


def _folders(step: Step[Any], inputs: Sequence[str]) -> dict[str, list[Path]]:
    """Return the folders of the input artifacts by name; a ParameterError names an input that the step has not."""
    folders: dict[str, list[Path]] = {}
    for item in inputs:
        key, sign, folder = item.partition("=")
        if not sign or key not in step.inputs:
            remedy = f"NAME=FOLDER with NAME one of {', '.join(step.inputs) or '-'}"
            raise ParameterError(f"no input {item!r}", source="--in", remedy=remedy)
        folders.setdefault(key, []).append(Path(folder))
    return folders
