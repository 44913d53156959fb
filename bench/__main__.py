"""`python -m bench [--only PART …]`: measure what the documents claim of VLM, training, video model, orchestrator.

Prints a table and writes `runs/bench.json` as [{name, value, bound, holds}]. Ends with code 1 where a bound does not
hold. About ten minutes on two cores; nothing else should run meanwhile. Where there is a GPU, models and sizes are
those of a GPU.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence

from bench import evaluation, language, leakage, loading, overhead, reading, training, video, waiting
from bench.measure import prepare
from bench.table import Row, finish

log = logging.getLogger("bench")
PARTS = {
    "language": language.rows,
    "training": training.rows,
    "loading": loading.rows,
    "video": video.rows,
    "reading": reading.rows,
    "waiting": waiting.rows,
    "evaluation": evaluation.rows,
    "leakage": leakage.rows,
    "overhead": overhead.rows,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    description = "Measure what the project claims about its cost."
    parser = argparse.ArgumentParser(prog="python -m bench", description=description)
    parser.add_argument("--only", action="append", choices=list(PARTS), help="a part to measure; may be given again")
    parts = parser.parse_args(arguments).only or list(PARTS)
    prepare()
    start, found = time.monotonic(), list[Row]()
    for part in parts:
        for row in PARTS[part]():
            found.append(row)
            log.info("%4.0f s  %s: %.3f (%s)", time.monotonic() - start, row.name, row.value, row.detail)
    return finish(found, "bench", "ratio")


if __name__ == "__main__":
    raise SystemExit(main())
