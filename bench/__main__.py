"""`python -m bench`: measures what the README claims, prints a table, writes `runs/bench.json` as [{name, value, bound, holds}].

Ends with code 1 where a bound does not hold. About ten minutes on two cores; nothing else should run meanwhile.
"""

from __future__ import annotations

import logging
import os
import time

import torch

from bench import language, overhead, video
from bench.measure import QUIET
from bench.table import Row, finish

log = logging.getLogger("bench")


def main() -> int:
    """Measure, print, write."""
    logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel("WARNING")
    os.environ.update(QUIET)
    torch.set_num_threads(1)
    start, found = time.monotonic(), list[Row]()
    for measure in (language.rows, video.rows, overhead.rows):
        for row in measure():
            found.append(row)
            log.info("%4.0f s  %s: %.3f (%s)", time.monotonic() - start, row.name, row.value, row.detail)
    return finish(found, "bench", "ratio")


if __name__ == "__main__":
    raise SystemExit(main())
