"""The three pipelines by name, and arguments for their parameters: from a JSON file, and as NAME=VALUE."""

from __future__ import annotations

import json
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

from components.core.errors import ParameterError
from components.kubeflow.tree import run_store

PIPELINES = ("motion_priors", "fine_tune", "motion_enhancer")


def pipeline(name: str) -> Any:
    """One of the three pipelines by name.

    Raises:
        ParameterError: there is no such pipeline.
    """
    if name not in PIPELINES:
        raise ParameterError(
            f"unknown pipeline {name!r}", source="command line", remedy=f"use one of {', '.join(PIPELINES)}"
        )
    return getattr(import_module("pipeline"), name)


def pipeline_defaults(made: Any) -> dict[str, Any]:
    """Parameters of a pipeline with their defaults."""
    return {name: spec.default for name, spec in made.component_spec.inputs.items()}


def parse_value(text: str) -> Any:
    """JSON if it reads as JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_assignments(assignments: list[str] | None, known: dict[str, Any]) -> dict[str, Any]:
    """Arguments from NAME=VALUE; `params_<step>.FIELD` (or FIELD.INNER) changes one field and keeps the step's other defaults.

    Raises:
        ParameterError: no `=`, or a name that is not known.
    """
    arguments: dict[str, Any] = {}
    for item in assignments or []:
        path, sign, text = item.partition("=")
        name, *fields = path.split(".")
        if not sign or name not in known:
            raise ParameterError(
                f"cannot set {item!r}", source="--set", remedy=f"NAME=VALUE with NAME one of {', '.join(sorted(known))}"
            )
        if not fields:
            arguments[name] = parse_value(text)
            continue
        inner = arguments.setdefault(name, deepcopy(known[name]))
        for field in fields[:-1]:
            inner = inner.get(field) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            raise ParameterError(
                f"cannot set {item!r}: {path.rpartition('.')[0]} has no fields",
                source="--set",
                remedy="correct the name",
            )
        inner[fields[-1]] = parse_value(text)
    return arguments


def read_arguments(file: Path | None) -> dict[str, Any]:
    """Pipeline arguments of a JSON file by name, or by `params_<step>.FIELD`.

    Raises:
        ParameterError: no such file, or not a JSON object.
    """
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ParameterError(f"cannot read {file}: {error}", source="--arguments", remedy="give a JSON file") from error
    if not isinstance(found, dict):
        raise ParameterError(f"{file} holds no JSON object", source="--arguments", remedy='e.g. {"seed": 2}')
    return found


def given_arguments(known: dict[str, Any], file: Path | None, assignments: list[str] | None) -> dict[str, Any]:
    """What is given to a pipeline by a file and by `--set`, which wins; errors as `read_arguments` and `parse_assignments`."""
    given = parse_assignments([f"{key}={json.dumps(value)}" for key, value in read_arguments(file).items()], known)
    return given | parse_assignments(assignments, {**known, **given})


def pipeline_arguments(
    known: dict[str, Any], file: Path | None, assignments: list[str] | None, out: Path
) -> dict[str, Any]:
    """What is given to a pipeline by a file and by `--set` (which wins), with the store: `<out>/store` unless it is given."""
    given = given_arguments(known, file, assignments)
    given["store"] = run_store(given.get("store", (out / "store").as_uri()))
    return given
