"""Progress of long work: a bar on a terminal, elsewhere a log line every 30 s (done/total, items/h, time left)."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
log = logging.getLogger(__name__)
_EVERY_SECONDS = 30.0


def track(items: Iterable[T], what: str, total: int | None = None, position: int | None = None) -> Iterator[T]:
    """Iterate over `items` and show how far it is; `position` is the bar's line where several processes have one."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit="", position=position)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= _EVERY_SECONDS and done:
            last, rate = now, done / (now - start)
            left = "" if total is None else f", {(total - done) / rate:.0f} s left"
            log.info("%s: %d/%s, %.0f an hour%s", what, done, "?" if total is None else total, rate * 3600, left)
        yield item
