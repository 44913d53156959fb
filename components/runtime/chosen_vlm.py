"""Which VLM a task runs: the frozen one of the pipeline's parameter, or a tuned one that came in as an artifact.

Either is opened with the first unit that is not remembered, and its weights are loaded with the first that needs them;
a tuned model's files are laid out in a folder that lives as long as the task computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.artifacts import TunedModel
from components.core.records import Json
from components.models.pretrained import read_json
from components.models.registry import resolve
from components.models.tuned import configuration, materialize
from components.models.vlm import family_of
from components.models.vlm.interface import VlmFamily
from components.runtime.context import Context

if TYPE_CHECKING:
    from components.models.vlm.model import Vlm
    from components.models.vlm.reader import Reader


@dataclass(frozen=True)
class ChosenVlm:
    """A task's VLM: its name and what it adds to each unit's `reads`.

    `family` reads its configuration alone. At their first call `reader` opens it without weights, and `load` with them.
    """

    name: str
    origin: Json
    family: Callable[[], VlmFamily]
    reader: Callable[[], Reader]
    load: Callable[[], Vlm]


@contextmanager
def chosen_vlm(context: Context[Any, Any], rows: bool) -> Iterator[ChosenVlm]:
    """Yield the tuned model where the task's form has the input `model`, else the frozen `vlm`.

    The tuned model enters keys by its own key, the frozen one by its digest; `rows`: attention rows will be requested.

    Raises:
        DataError: a file of the tuned model is missing or damaged (when it is opened).
        ParameterError: no such model.
    """
    if not context.has("model"):
        model = resolve(context.shared.vlm, context.store)
        context.models["vlm"] = model.id
        yield _chosen(model.id.name, {}, lambda: model.path / "config.json", lambda: model.path, rows)
        return
    tuned = context.input("model", TunedModel)
    name, config = f"tuned-{tuned.key[:12]}", partial(configuration, tuned.files, context.store)
    with context.shared_folder("model", lambda folder: materialize(tuned.files, context.store, folder)) as opened:
        yield _chosen(name, {"model": tuned.key}, config, opened, rows)


def _chosen(name: str, origin: Json, config: Callable[[], Path], folder: Callable[[], Path], rows: bool) -> ChosenVlm:
    def family() -> VlmFamily:
        return family_of(read_json(config()), name)

    def read() -> Reader:
        from components.models.vlm.reader import open_reader

        return open_reader(folder())

    def load() -> Vlm:
        from components.models.vlm.model import open_vlm

        return open_vlm(folder(), rows)

    return ChosenVlm(name, origin, cache(family), cache(read), cache(load))
