"""Which VLM a task runs: the frozen one of the pipeline's parameter, or a tuned one that came in as an artifact.

Either is loaded with the first unit that is not remembered; a tuned model's files are laid out in a folder that lives
as long.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from components.core.artifacts import TunedModel
from components.core.records import Json
from components.models.registry import resolve
from components.models.tuned import materialize
from components.runtime.context import Context

T = TypeVar("T")


@dataclass(frozen=True)
class ChosenVlm(Generic[T]):
    """A task's VLM: its name, what it adds to each unit's `reads`, and `loaded`, which loads it at its first call."""

    name: str
    origin: Json
    loaded: Callable[[], T]


@contextmanager
def chosen_vlm(context: Context[Any], load: Callable[[Path], T]) -> Iterator[ChosenVlm[T]]:
    """The tuned model where the task's form has the input `model`, else the frozen `vlm`, which enters keys by its digest.

    Args:
        context: the running step.
        load: opens a model's folder.

    Raises:
        DataError: a file of the tuned model is missing or damaged (when it is loaded).
        ParameterError: no such model.
    """
    if not context.has("model"):
        model = resolve(context.scalars.vlm, context.store)
        context.models["vlm"] = model.id
        yield ChosenVlm(model.id.name, {}, cache(lambda: load(model.path)))
        return
    tuned = context.input("model", TunedModel)
    with tempfile.TemporaryDirectory() as scratch:
        yield ChosenVlm(
            f"tuned-{tuned.key[:12]}",
            {"model": tuned.key},
            cache(lambda: load(materialize(tuned.files, context.store, Path(scratch) / "model"))),
        )
