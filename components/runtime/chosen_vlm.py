"""Which VLM a task runs: the frozen one of the pipeline's parameter, or a tuned one that came in as an artifact.

Either is loaded with the first unit that is not remembered; a tuned model's files are laid out in a folder that lives
as long as the task computes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.artifacts import TunedModel
from components.core.records import Json
from components.models.registry import resolve
from components.models.tuned import materialize
from components.runtime.context import Context

if TYPE_CHECKING:
    from components.models.vlm.model import Vlm


@dataclass(frozen=True)
class ChosenVlm:
    """A task's VLM: its name, what it adds to each unit's `reads`, and `load`, which opens it at the first call."""

    name: str
    origin: Json
    load: Callable[[], Vlm]


@contextmanager
def chosen_vlm(context: Context[Any, Any], rows: bool) -> Iterator[ChosenVlm]:
    """Yield the tuned model where the task's form has the input `model`, else the frozen `vlm`.

    The tuned model enters keys by its own key, the frozen one by its digest; `rows`: attention rows will be requested.

    Raises:
        DataError: a file of the tuned model is missing or damaged (when it is loaded).
        ParameterError: no such model.
    """

    def opened(folder: Path) -> Vlm:
        from components.models.vlm.model import open_vlm

        return open_vlm(folder, rows)

    if not context.has("model"):
        model = resolve(context.shared.vlm, context.store)
        context.models["vlm"] = model.id
        yield ChosenVlm(model.id.name, {}, cache(lambda: opened(model.path)))
        return
    tuned = context.input("model", TunedModel)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        load = cache(lambda: opened(materialize(tuned.files, context.store, folder)))
        yield ChosenVlm(f"tuned-{tuned.key[:12]}", {"model": tuned.key}, load)
