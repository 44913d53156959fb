"""A step is declared once; from it come the KFP component, the command line and the in-process call of a test.

`Step` holds the pydantic models of its own and of its shared parameters, its typed inputs and outputs, and `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, Literal

from components.core.artifacts import Manifest
from components.core.errors import ParameterError
from components.core.records import Json, ModelId, canonical_json, sha256
from components.runtime.parameters import P, SharedParams, StepParams
from components.steps import STEPS

Ui = Literal["Metrics", "Markdown", "HTML"]


@dataclass(frozen=True)
class Form:
    """What one KFP component of a step takes, and its output parameters; a step without forms has one of everything."""

    shared: type[SharedParams]
    inputs: Collection[str] = ()
    values: tuple[str, ...] = ()
    planned: tuple[str, ...] = ()  # steps whose `params_<step>` it takes, which only `plan` does

    @property
    def step_params(self) -> list[str]:
        """The parameters of other steps by name."""
        return [f"params_{name}" for name in self.planned]

    @property
    def names(self) -> set[str]:
        """Everything that the form takes, but `params` and `rerun`."""
        return {*self.shared.model_fields, *self.inputs, *self.step_params}


@dataclass(frozen=True)
class Step(Generic[P]):
    """One step of the method."""

    name: str
    version: str
    title: str
    unit: str
    device: Literal["cpu", "gpu"]
    run: Callable[[Any], None]  # takes the `Context` of this step's parameters
    params: type[P]
    shared: type[SharedParams] = SharedParams
    inputs: Mapping[str, type[Manifest] | list[type[Manifest]]] = field(default_factory=dict)
    outputs: Mapping[str, type[Manifest]] = field(default_factory=dict)
    pages: Mapping[str, Ui] = field(default_factory=dict)
    work: Callable[[Any], str] | None = None  # returns the key of the one piece of work of a `Context`, where it is one
    forms: Mapping[str, Form] = field(default_factory=dict)

    def defaults(self) -> Json:
        """Return the step's own parameters with their defaults."""
        return self.params().model_dump(mode="json", exclude_none=True)

    def form(self, name: str = "") -> Form:
        """Return the named form."""
        return self.forms[name] if self.forms else Form(self.shared, self.inputs)

    def form_for(self, given: Collection[str]) -> Form:
        """Return the form closest to these names of parameters and inputs; validation then names what is wrong."""
        return min(map(self.form, self.forms or [""]), key=lambda form: len(form.names ^ set(given)))

    def shared_result(self, shared: SharedParams) -> Json:
        """Return the shared parameters that this step's results depend on; `shared` may hold more."""
        names = set().union(*(self.form(name).shared.result_names() for name in self.forms or [""]))
        values = shared.result()
        return {name: values[name] for name in sorted(names)}

    def key(self, params: StepParams, shared: Json, models: Mapping[str, ModelId], reads: Json) -> str:
        """Return the key of one piece of work: 32 hex of a hash over everything that its result depends on.

        `shared` is what `shared_result` returns; `reads` names what the work reads, by key or content hash.
        """
        payload = {
            "step": self.name,
            "version": self.version,
            "params": params.keyed(),
            "scalars": shared,
            "models": {role: model.digest for role, model in models.items()},
            "reads": reads,
        }
        return sha256(canonical_json(payload))[:32]


def declared(name: str) -> Step[Any]:
    """Return a step's declaration by its name.

    Raises:
        ParameterError: there is no such step.
    """
    if name not in STEPS:
        raise ParameterError(f"no step {name!r}", source="name of a step", remedy=f"use one of {', '.join(STEPS)}")
    step: Step[Any] = import_module(f"components.{name}.step").STEP
    return step
