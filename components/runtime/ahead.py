"""Values that worker threads read before they are asked for: a clip decodes while the model works on the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


@contextmanager
def read_ahead(keys: Sequence[K], read: Callable[[K], V], count: int) -> Iterator[Callable[[K], V]]:
    """Yield a function that returns `read(key)`, asked for in the order of `keys`, which differ; some may be left out.

    `count` threads read the keys that come next, at most as many values as threads beside the one asked for last, which
    is held and may be asked for again. With 0 threads a value is read when it is asked for. What `read` raises, asking
    raises.
    """
    pool, rest = ThreadPoolExecutor(max(1, count)), deque(keys)
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
