"""What a pipeline takes, from the declarations, and its tasks made of it.

A pipeline takes what `plan` takes in the form of its name: the shared parameters with their defaults, and
`params_<step>`, pre-filled with the step's full defaults (so that a changed default changes KFP's cache key). Beside
them stands `rerun_<task>`: a new value runs the task again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kfp import dsl

from components.kubeflow.component import component, kfp_type
from components.kubeflow.descriptions import description
from components.runtime.declaration import Form, declared
from components.runtime.variants import LISTED

NO_RERUN = "0"


class Arguments:
    """The values of a pipeline's parameters, and its tasks made of them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def task(
        self, name: str, step: str = "", form: str = "", varied: Sequence[str] = (), **inputs: Any
    ) -> dsl.PipelineTask:
        """Make a task of a step, with every parameter of the pipeline that the step's form declares.

        `step` is the step's name where it is not the task's; `varied` are the lists that its varied form takes;
        `inputs` are artifacts, and parameters that are not the pipeline's own (a loop's item, another task's output).
        """
        declaration = declared(step or name)
        chosen = declaration.form(form)
        single = {LISTED[key] for key in varied if key in LISTED}
        names = [key for key in (*chosen.shared.model_fields, *chosen.step_params) if key not in single]
        given = {key: self._values[key] for key in (*names, *varied) if key in self}
        if declaration.params.model_fields:
            given["params"] = self._values[f"params_{declaration.name}"]
        given["rerun"] = NO_RERUN if name == "plan" else self._values[f"rerun_{name}"]
        return component(declaration, name, form, varied)(**given, **inputs)

    def __contains__(self, name: str) -> bool:
        return name in self._values


def takes(*tasks: str) -> Callable[[Callable[[Arguments], Any]], Callable[..., Any]]:
    """Give a function of `Arguments` the signature and the description that KFP reads; goes below `@dsl.pipeline`.

    `tasks` are the pipeline's tasks but `plan`, by name; each has a `rerun_<task>`.
    """

    def decorate(function: Callable[[Arguments], Any]) -> Callable[..., Any]:
        parameters = _parameters(declared("plan").form(function.__name__), tasks)

        def pipeline(*values: Any) -> Any:
            return function(Arguments(dict(zip([item.name for item in parameters], values, strict=True))))

        pipeline.__name__ = pipeline.__qualname__ = function.__name__
        pipeline.__doc__ = description(inspect.getdoc(function) or "", [item.name for item in parameters])
        outputs = inspect.signature(function).return_annotation
        pipeline.__signature__ = inspect.Signature(parameters, return_annotation=outputs)  # type: ignore[attr-defined]
        return pipeline

    return decorate


def _parameters(form: Form, tasks: tuple[str, ...]) -> list[inspect.Parameter]:
    fields, defaults = form.shared.model_fields, form.shared.pipeline_defaults()
    found = [(name, kfp_type(fields[name].annotation), value) for name, value in defaults.items()]
    found += [(f"params_{name}", dict, declared(name).defaults()) for name in form.planned]
    found += [(f"rerun_{task}", str, NO_RERUN) for task in tasks]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [inspect.Parameter(name, kind, annotation=given, default=value) for name, given, value in found]
