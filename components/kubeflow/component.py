"""From a step's declaration, its KFP container component.

The component has the step's typed inputs and outputs, `params` where the step has some, its shared parameters and
`rerun`. The container's command is `python -m components <step>` with two arguments, the task's name and KFP's executor
input. Wiring a wrong kind fails at compile time.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cache
from traceback import walk_stack
from types import FrameType, SimpleNamespace
from typing import Any, List, NamedTuple, get_origin  # noqa: UP035 - kfp knows typing.List only

from kfp import dsl
from kfp.dsl import pipeline_task

from components.core.artifacts import Manifest
from components.kubeflow.images import VARIANTS, pinned
from components.kubeflow.scheduling import PROFILE
from components.runtime.declaration import Step
from components.runtime.variants import LISTED, VariedParams

_UI = {"Metrics": dsl.Metrics, "Markdown": dsl.Markdown, "HTML": dsl.HTML}
# what a pipeline is imported with where nobody compiles it for a run (its parameters, its docs)
_IMAGES = dict.fromkeys(VARIANTS, "unnamed@sha256:" + "0" * 64)


def call_stack() -> list[tuple[FrameType, str, int, str]]:
    """Return frame, file, line and function of every caller, in place of `inspect.stack` in kfp's tasks.

    kfp 2.17 asks who called at each setting of a task, only to name the method in an error. Python then looks for the
    source of every frame in every loaded module: six of the eight seconds of a compilation.
    """
    callers = walk_stack(sys._getframe(1))
    return [(frame, frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in callers]


pipeline_task.inspect = SimpleNamespace(stack=call_stack)  # nothing else of `inspect` is used there


def use_images(images: dict[str, str]) -> None:
    """Set the images `cpu` and `gpu` of what is compiled from now on; an image named by tag is a ParameterError."""
    _IMAGES.update({variant: pinned(reference, f"the {variant} image") for variant, reference in images.items()})


@cache
def artifact_type(kind: str) -> type[dsl.Artifact]:
    """KFP's type of one of our manifests."""
    return type(kind, (dsl.Artifact,), {"schema_title": f"system.MotionEnhancer{kind}", "schema_version": "0.0.1"})


def pipeline_outputs(name: str, **kinds: str) -> Any:
    """Return the named tuple of types that KFP wants of a pipeline's outputs: manifests or pages by name."""
    types = [(key, _UI.get(kind) or artifact_type(kind)) for key, kind in kinds.items()]
    return NamedTuple(name, types)  # type: ignore[misc]


def kfp_type(annotation: Any) -> type:
    """Return the type that KFP gives a shared parameter: number, list or string."""
    return annotation if annotation in (int, float) else list if get_origin(annotation) is list else str


def _input_type(kind: type[Manifest] | list[type[Manifest]]) -> Any:
    if isinstance(kind, list):
        return dsl.Input[List[artifact_type(kind[0].KIND)]]  # type: ignore[misc]  # noqa: UP006
    return dsl.Input[artifact_type(kind.KIND)]


def component(
    step: Step[Any], task: str = "", form: str = "", varied: Sequence[str] = ()
) -> Callable[..., dsl.PipelineTask]:
    """Return the KFP component of a step's form, named after the task; `varied` are the lists of its varied form."""
    task = task or step.name
    chosen = step.form(form)
    single = {LISTED[name] for name in varied if name in LISTED}
    shared = {name: field for name, field in chosen.shared.model_fields.items() if name not in single}
    shared |= {name: VariedParams.model_fields[name] for name in varied}
    fields: dict[str, Any] = {name: kfp_type(field.annotation) for name, field in shared.items()}
    fields |= {"params": dict} if step.params.model_fields else {}
    fields |= {"rerun": str, **dict.fromkeys(chosen.step_params, dict)}
    fields |= {name: _input_type(step.inputs[name]) for name in chosen.inputs}
    fields |= {name: dsl.Output[artifact_type(kind.KIND)] for name, kind in step.outputs.items()}
    fields |= {name: dsl.Output[_UI[page]] for name, page in step.pages.items()}
    fields |= {name: dsl.OutputPath(str) for name in chosen.values}

    def build(*_: Any) -> dsl.ContainerSpec:
        image = _IMAGES["gpu" if step.device == "gpu" and PROFILE.get().gpu else "cpu"]
        return dsl.ContainerSpec(image=image, command=["python", "-m", "components", step.name], args=[task, "{{$}}"])

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    build.__name__ = build.__qualname__ = task
    build.__doc__ = f"{step.title}, a unit is one {step.unit}."
    parameters = [inspect.Parameter(name, kind, annotation=value) for name, value in fields.items()]
    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    build.__annotations__ = fields
    made: Callable[..., dsl.PipelineTask] = dsl.container_component(build)
    return made
