"""A step is declared once; from the declaration come the KFP component, the CLI and the in-process call of a test.

`Step` holds pydantic `params`, the shared scalars it uses, its typed inputs and outputs, and `run`. `execute` is what a container does:
it reads KFP's executor input, validates everything, runs, checks that each declared output was published, and writes KFP's answer.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Generic, Literal

from components.core.artifacts import Manifest
from components.core.context import Context
from components.core.errors import MotionEnhancerError, ParameterError
from components.core.executor import Outputs, Request
from components.core.job import start_logging
from components.core.parameters import PLACES, P, StepParams, scalars_of, validated
from components.core.records import Json, ModelId, canonical_json, sha256

log = logging.getLogger(__name__)
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
    run: Callable[[Context[P]], None]
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


def execute(step: Step[Any], task: str, executor_input: Json) -> None:
    """Run one task in this process.

    Raises:
        MotionEnhancerError: anything a person can mend; the subclass holds the exit code.
        AssertionError: the step did not write an output that it declares.
    """
    outputs = Outputs(executor_input)
    context = Context(step, task, Request.parse(step, executor_input), outputs)
    step.run(context)
    outputs.close(step)


def main(step: Step[Any], argv: Sequence[str] | None = None) -> int:
    """`python -m components.<step> TASK EXECUTOR_INPUT`: the container's entry. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    start_logging()
    if len(arguments) != 2:
        log.error("usage: python -m components.%s TASK EXECUTOR_INPUT (see `motion-enhancer step %s --help`)", step.name, step.name)
        return 2
    task, start = arguments[0], time.monotonic()
    try:
        execute(step, task, json.loads(arguments[1]))
        code = 0
    except MotionEnhancerError as error:
        log.error("%s: %s", task, error)
        code = error.exit_code
    except Exception as error:  # noqa: BLE001 - the step runner: anything else is a bug and is shown whole
        code = 2 if _gpu_is_full(error) else 1
        what = (
            "the GPU has too little memory: lower num_frames, height or width, or take a larger one"
            if code == 2
            else "a bug in this project"
        )
        log.error("%s: %s\n%s", task, what, traceback.format_exc())
    log.info("%s: exit %d after %.1f s", task, code, time.monotonic() - start)
    return code


def _gpu_is_full(error: Exception) -> bool:
    """Whether torch found no room on a GPU; where no step has imported torch, nothing of it was raised."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
