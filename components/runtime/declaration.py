"""A step is declared once; from the declaration come the KFP component, the command line and the in-process call of a test.

`Step` holds the pydantic model of its parameters, the shared parameters it uses, its typed inputs and outputs, and
`run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Generic, Literal

from components.core.artifacts import Manifest
from components.core.errors import ParameterError
from components.core.records import Json, ModelId, canonical_json, sha256
from components.runtime.parameters import PLACES, P, StepParams, scalars_of, validated

Ui = Literal["Metrics", "Markdown", "HTML"]


@dataclass(frozen=True)
class Form:
    """A named subset of a step's inputs and scalars that is a KFP component of its own."""

    inputs: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    step_params: tuple[str, ...] = ()  # `params_<step>` of other steps, which only `plan` reads


@dataclass(frozen=True)
class Step(Generic[P]):
    """One step of the method."""

    name: str
    version: str
    title: str
    unit: str
    device: Literal["cpu", "gpu"]
    params: type[P]
    run: Callable[[Any], None]  # takes the `Context` of this step's parameters
    scalars: tuple[str, ...] = ()
    inputs: Mapping[str, type[Manifest] | list[type[Manifest]]] = field(default_factory=dict)
    outputs: Mapping[str, type[Manifest]] = field(default_factory=dict)
    pages: Mapping[str, Ui] = field(default_factory=dict)
    values: tuple[str, ...] = ()
    forms: Mapping[str, Form] = field(default_factory=dict)
    always_scalars: ClassVar[tuple[str, ...]] = ("store",)

    def form(self, name: str = "") -> Form:
        """The named form; a step without forms has one, with everything."""
        if not self.forms:
            return Form(tuple(self.inputs), (*self.always_scalars, *self.scalars))
        chosen = self.forms[name]
        return Form(chosen.inputs, (*self.always_scalars, *self.scalars, *chosen.scalars), chosen.step_params)

    def result_scalars(self, scalars: Mapping[str, Any]) -> Json:
        """Those shared scalars that results depend on."""
        return {name: scalars[name] for name in sorted(self.scalars) if name not in PLACES}

    def key(self, params: StepParams, scalars: Mapping[str, Any], models: Mapping[str, ModelId], reads: Json) -> str:
        """The name of one piece of work: 32 hex of a hash over everything its result depends on, known before it is done."""
        payload = {
            "step": self.name,
            "version": self.version,
            "params": params.result(),
            "scalars": self.result_scalars(scalars),
            "models": {role: model.digest for role, model in models.items()},
            "reads": reads,
        }
        return sha256(canonical_json(payload))[:32]


def declared(name: str, source: str) -> Step[Any]:
    """A step's declaration by its name.

    Raises:
        ParameterError: there is no such step.
    """
    try:
        step: Step[Any] = import_module(f"components.{name}.step").STEP
    except ModuleNotFoundError as error:
        if not f"components.{name}.step".startswith(error.name or "-"):
            raise
        raise ParameterError(
            f"no step {name!r}", source=source, remedy="correct the name: a folder of components/ with a step.py"
        ) from error
    return step


def validate_step(step: Step[Any], params: Json, scalars: Json) -> None:
    """Validate a step's parameters without running it (what `plan` does for every step)."""
    validated(step.params, params, f"params_{step.name}")
    scalars_of(scalars)
