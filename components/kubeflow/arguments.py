"""The pipelines by name, and arguments for their parameters: from a JSON file, options, and NAME=VALUE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

from components.core.errors import ParameterError
from components.runtime.parameters import as_text, items_of

PIPELINES = ("motion_priors", "fine_tune", "motion_enhancer", "ablations")


def pipeline(name: str) -> Any:
    """Return a pipeline by name. Raises ParameterError: there is no such pipeline."""
    if name not in PIPELINES:
        remedy = f"use one of {', '.join(PIPELINES)}"
        raise ParameterError(f"unknown pipeline {name!r}", source="command line", remedy=remedy)
    return getattr(import_module("pipeline"), name)


def pipeline_defaults(made: Any) -> dict[str, Any]:
    """Return the parameters of a pipeline with their defaults."""
    return {name: spec.default for name, spec in made.component_spec.inputs.items()}


def parse_value(text: str) -> Any:
    """Return what the text is as JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def split_assignments(assignments: Sequence[str] | None) -> dict[str, Any]:
    """Return the values of NAME=VALUE by name. Raises ParameterError: no `=`."""
    parts = [item.partition("=") for item in assignments or ()]
    if wrong := [name for name, sign, _ in parts if not sign]:
        raise ParameterError(f"cannot set {wrong[0]!r}", source="--set", remedy="NAME=VALUE")
    return {name: parse_value(text) for name, _, text in parts}


def nested(given: Mapping[str, Any], known: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return arguments by parameter: `params_<step>.FIELD` (or FIELD.INNER) changes one field of what is known.

    `known` holds the parameters that there are, with the values that are kept; another name is a ParameterError.
    """
    arguments: dict[str, Any] = {}
    for path, value in given.items():
        name, *fields = path.split(".")
        if name not in known:
            remedy = f"NAME=VALUE with NAME one of {', '.join(sorted(known))}"
            raise ParameterError(f"cannot set {path!r}", source=source, remedy=remedy)
        if not fields:
            # KFP takes text alone for text: 1 given for a nonce is "1", and a recipe of sources its JSON
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if isinstance(known[name], str):
                value = str(value) if is_number else as_text(value)
            arguments[name] = value
            continue
        inner = arguments.setdefault(name, deepcopy(known[name]))
        for field in fields[:-1]:
            inner = inner.get(field) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            problem = f"cannot set {path!r}: {path.rpartition('.')[0]} has no fields"
            raise ParameterError(problem, source=source, remedy="correct the name")
        inner[fields[-1]] = value
    return arguments


def parse_assignments(assignments: Sequence[str] | None, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments from `--set`; errors as `split_assignments` and `nested`."""
    return nested(split_assignments(assignments), known, "--set")


def read_arguments(file: Path | None) -> dict[str, Any]:
    """Return the values of a JSON file by parameter, or by `params_<step>.FIELD`; else it is a ParameterError."""
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ParameterError(f"cannot read {file}: {error}", source="--arguments", remedy="give a JSON file") from error
    if not isinstance(found, dict):
        raise ParameterError(f"{file} holds no JSON object", source="--arguments", remedy='e.g. {"seed": 2}')
    return found


def with_absolute_paths(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with every folder of this machine as an absolute path, since tasks run in another folder."""
    found = dict(arguments)
    for name in {"store", "vdm", "vlm"} & set(found):
        found[name] = _absolute(name, found[name])
    for name in {"source", "priors"} & set(found):
        if not (isinstance(found[name], dict) and "uri" not in found[name]):  # fields that a variant changes
            found[name] = _absolute_items(name, as_text(found[name]))
    if isinstance(listed := found.get("benchmarks"), list):
        pairs = [str(item).partition("=") for item in listed]
        found["benchmarks"] = [protocol + sign + _absolute("source", folder) for protocol, sign, folder in pairs]
    if isinstance(variants := found.get("variants"), list):
        found["variants"] = [with_absolute_paths(item) if isinstance(item, dict) else item for item in variants]
    return found


def _absolute_items(name: str, value: Any) -> Any:
    """Return one address, or a JSON list of addresses and of objects with a `uri`, with absolute folders."""
    if not isinstance(value, str) or (items := items_of(value, name)) == [value]:
        return _absolute(name, value)
    return as_text(
        [
            {**item, "uri": _absolute(name, item.get("uri"))} if isinstance(item, dict) else _absolute(name, item)
            for item in items
        ]
    )


def _absolute(name: str, value: Any) -> Any:
    registered = name in ("vdm", "vlm") and "/" not in str(value)
    if not isinstance(value, str) or not value or registered or "://" in value or value.startswith("sha256:"):
        return value
    path = Path(value).expanduser().absolute()
    return path.as_uri() if name == "store" else str(path)
