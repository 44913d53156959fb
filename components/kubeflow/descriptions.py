"""What a pipeline's page in the KFP UI tells of its parameters: the run form shows none of their descriptions.

The texts are those of the pydantic declarations. `described` puts them into a pipeline's docstring before KFP reads it:
as a list in the description, a line a parameter and a line a field of `params_<step>`, and as `Args`, which become the
inputs' descriptions in the YAML.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from components.runtime.parameters import Scalars

F = TypeVar("F", bound=Callable[..., Any])


def fields(model: type[BaseModel], prefix: str = "") -> list[tuple[str, FieldInfo]]:
    """Every field of a parameter model, nested models by `outer.inner`."""
    found: list[tuple[str, FieldInfo]] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += fields(field.annotation, f"{prefix}{name}.")
        else:
            found.append((prefix + name, field))
    return found


def step_fields(name: str) -> list[tuple[str, FieldInfo]]:
    """The fields of `params_<step>`."""
    return fields(import_module(f"components.{name.removeprefix('params_')}.step").STEP.params)


def help_of(name: str) -> str:
    """One line about a pipeline parameter.

    Raises:
        KeyError: neither a shared scalar nor `params_…` nor `rerun_…`.
    """
    if name.startswith("params_"):
        step = import_module(f"components.{name.removeprefix('params_')}.step").STEP
        return f"parameters of the step {step.title!r}, a JSON object: {', '.join(field for field, _ in step_fields(name))}"
    if name.startswith("rerun_"):
        task = name.removeprefix("rerun_").replace("_", "-")
        return f"a new value executes {task} and what follows again and checks remembered files; force… computes everything"
    return Scalars.model_fields[name].description or ""


def listing(names: list[str]) -> list[str]:
    """Every parameter with its help, the fields of a step's parameters below it."""
    lines = []
    for name in sorted(names):  # as the form sorts them
        if name.startswith("params_"):
            lines.append(f"- {name} – {help_of(name).partition(':')[0]}")
            lines += [f"    - {field} – {info.description}" for field, info in step_fields(name)]
        else:
            lines.append(f"- {name} – {help_of(name)}")
    return lines


def described(function: F) -> F:
    """A pipeline function whose docstring says what every parameter is; goes below `@dsl.pipeline`."""
    names = list(inspect.signature(function).parameters)
    arguments = [f"    {name}: {help_of(name)}" for name in names]
    parts = [inspect.getdoc(function) or "", "", "Parameters", "", *listing(names), "", "Args:", *arguments]
    function.__doc__ = "\n".join(parts)
    return function
