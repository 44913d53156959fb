"""What a pipeline's page in the KFP UI shows of its parameters: the run form shows none of their descriptions.

The texts are those of the pydantic declarations. `description` makes the docstring that KFP reads: a list with one line
per parameter and per field of `params_<step>`, and `Args`, which become the inputs' descriptions in the YAML.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from components.runtime.declaration import declared


def shared_fields() -> dict[str, FieldInfo]:
    """Return the shared parameters of all pipelines: `plan` takes them all."""
    forms = declared("plan").forms.values()
    return {name: field for form in forms for name, field in form.shared.model_fields.items()}


def fields(model: type[BaseModel], prefix: str = "") -> list[tuple[str, FieldInfo]]:
    """Every field of a parameter model, nested models by `outer.inner`."""
    found: list[tuple[str, FieldInfo]] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += fields(field.annotation, f"{prefix}{name}.")
        else:
            found.append((prefix + name, field))
    return found


def help_of(name: str) -> str:
    """One line about a pipeline parameter. Raises KeyError: neither a shared parameter nor `params_…` nor `rerun_…`."""
    if name.startswith("params_"):
        step = declared(name.removeprefix("params_"))
        names = ", ".join(field for field, _ in fields(step.params))
        return f"parameters of the step {step.title!r}, a JSON object: {names}"
    if name.startswith("rerun_"):
        task = name.removeprefix("rerun_").replace("_", "-")
        once = f"a new value executes {task} and what follows again and checks remembered files"
        return f"{once}; force… computes everything"
    return shared_fields()[name].description or ""


def listing(names: Sequence[str]) -> list[str]:
    """Every parameter with its help, the fields of a step's parameters below it."""
    lines = []
    for name in sorted(names):  # as the form sorts them
        if name.startswith("params_"):
            lines.append(f"- {name} – {help_of(name).partition(':')[0]}")
            params = declared(name.removeprefix("params_")).params
            lines += [f"    - {field} – {info.description}" for field, info in fields(params)]
        else:
            lines.append(f"- {name} – {help_of(name)}")
    return lines


def description(summary: str, names: Sequence[str]) -> str:
    """Return a pipeline's docstring: what it does, and what every parameter is."""
    arguments = [f"    {name}: {help_of(name)}" for name in names]
    return "\n".join([summary, "", "Parameters", "", *listing(names), "", "Args:", *arguments])
