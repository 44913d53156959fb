"""Values that worker threads read before they are asked for: a clip decodes while the model works on the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Here(Executor):
    """Does at once, in the thread that asks, what a pool's thread would do later."""

    def submit(self, fn: Callable[..., V], /, *args: Any, **kwargs: Any) -> Future[V]:
        """Return what `fn` has returned or raised; what ends the process (Ctrl-C) is raised here."""
        done: Future[V] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as a pool's threads keep it: who asks for the result raises it
            done.set_exception(error)
        return done


def threads(count: int) -> Executor:
    """Return a pool of `count` threads; 0: the one that asks."""
    return ThreadPoolExecutor(count) if count else Here()


@contextmanager
def read_ahead(keys: Sequence[K], read: Callable[[K], V], count: int) -> Iterator[Callable[[K], V]]:
    """Yield a function that returns `read(key)`, asked for in the order of `keys`, which differ; some may be left out.

    `count` threads read the keys that come next, at most as many values as threads beside the one asked for last, which
    is held and may be asked for again. With 0 threads a value is read when it is asked for. What `read` raises, asking
    raises.
    """
    pool, rest = threads(count), deque(keys)
    reading: deque[tuple[K, Future[V]]] = deque()

    def get(key: K) -> V:
        while reading and reading[0][0] != key:
            reading.popleft()[1].cancel()
        while not reading and rest[0] != key:
            rest.popleft()
        while rest and len(reading) <= count:
            reading.append((following := rest.popleft(), pool.submit(read, following)))
        return reading[0][1].result()

    try:
        yield get
    finally:
        pool.shutdown(cancel_futures=True)
