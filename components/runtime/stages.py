"""A unit's work in three stages, so that the device does not wait: read ahead, computed, written behind.

Reading (fetch, decode, resize) and writing (serialize, hash, put) run in threads of this process: decoders, torch,
hashes and sockets release Python's lock, and nothing has to be copied between processes. Computing stays in the thread
that asks.

The order of everything that can be seen is that of one unit at a time: results and failures come in the units' order,
and an error that ends the step is raised in its unit's turn, after what was computed before it is written.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeVar

from components.core.errors import DataError
from components.core.records import Json
from components.runtime.ahead import Here, read_ahead, threads
from components.store.entries import WorkFolder

U = TypeVar("U")
In = TypeVar("In")
Out = TypeVar("Out")
R = TypeVar("R")


def nothing(unit: object) -> None:
    """Read nothing."""


@dataclass(frozen=True, kw_only=True)
class Stages(Generic[U, In, Out]):
    """How a unit is computed; any of the three may raise a DataError, which is the unit's failure.

    Attributes:
        prepare: reads what the unit needs; in a thread.
        compute: makes of it what is to be kept, in the calling thread; its second argument returns what `prepare`
            returned, or raises what that raised. What it returns waits to be written: it lies in the host's memory.
        write: writes files into the folder and returns small numbers for the entry; in a thread.
        prefetch: most units that are prepared ahead, and most that are written behind; 0: one stage after another.
        shared: names what `prepare` reads: units in a row that share it read it once.
    """

    prepare: Callable[[U], In]
    compute: Callable[[U, Callable[[], In]], Out]
    write: Callable[[U, Out, WorkFolder], Json]
    prefetch: int
    shared: Callable[[U], Hashable] | None = None

    @classmethod
    def one(cls, compute: Callable[[U, WorkFolder], Json]) -> Stages[U, Any, Any]:
        """Return work that is not divided."""
        compute_nothing = lambda unit, inputs: None
        write = lambda unit, made, folder: compute(unit, folder)
        return Stages(prepare=nothing, compute=compute_nothing, write=write, prefetch=0)


@dataclass
class Spent:
    """Seconds of a step's loops over its units, and those of them in which the device waited for files."""

    seconds: float = 0.0
    waited: float = 0.0

    @property
    def share(self) -> float:
        """The share of the time in which the device waited."""
        return self.waited / self.seconds if self.seconds else 0.0

    def add(self, other: Spent) -> None:
        """Count another loop, or another process."""
        self.seconds += other.seconds
        self.waited += other.waited

    @contextmanager
    def looping(self) -> Iterator[None]:
        """Measure a loop."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - start

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure a wait within a loop."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.waited += time.monotonic() - start


def in_stages(
    units: Sequence[U],
    stages: Stages[U, In, Out],
    finish: Callable[[int, Out], R],
    spent: Spent,
    shown: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Iterator[tuple[U, R | DataError]]:
    """Yield each unit with what `finish` returned, or with the DataError of one of its stages, in the units' order.

    Args:
        units: in the order in which they are computed.
        stages: how; `write` is called by `finish`.
        finish: keeps what `compute` returned of the unit at a place in `units`, in a thread.
        spent: where time is counted.
        shown: iterates over the units' places and shows how far it is.

    Raises:
        Exception: what another error than a DataError is, of any stage.
    """
    if not units:
        return
    behind: deque[tuple[U, Future[R]]] = deque()
    runs = _runs(units, stages.shared)
    run_of = [number for number, run in enumerate(runs) for _ in run]

    def ended() -> tuple[U, R | DataError]:
        unit, outcome = behind.popleft()
        with spent.waiting():
            error = outcome.exception()
        if isinstance(error, DataError):
            return unit, error
        return unit, outcome.result()

    def computed(place: int) -> Future[R]:
        def inputs() -> In:
            with spent.waiting():
                return prepared(run_of[place])

        made = here.submit(stages.compute, units[place], inputs)
        if made.exception() is not None:
            return made  # type: ignore[return-value] # without a result it is a future of anything
        with spent.waiting():  # as long as writing takes where nothing runs behind
            return writers.submit(finish, place, made.result())

    reading = read_ahead(range(len(runs)), lambda number: stages.prepare(runs[number][0]), stages.prefetch)
    with spent.looping(), threads(stages.prefetch) as writers, reading as prepared, Here() as here:
        for place in shown(range(len(units))):
            behind.append((units[place], computed(place)))
            if any(_ends_all(outcome) for _, outcome in behind):
                break
            while behind and (len(behind) > stages.prefetch or behind[0][1].done()):
                yield ended()
        while behind:
            yield ended()


def _runs(units: Sequence[U], shared: Callable[[U], Hashable] | None) -> list[list[U]]:
    """Return the units in runs that share what is read."""
    return [[unit] for unit in units] if shared is None else [list(run) for _, run in groupby(units, shared)]


def _ends_all(outcome: Future[Any]) -> bool:
    """Return whether an outcome is known that ends the step."""
    return outcome.done() and not isinstance(outcome.exception(), DataError | None)
