"""`python -m bench`: measures what the README claims, prints a table, writes `runs/bench.json` as [{name, value, bound, holds}].

Ends with code 1 where a bound does not hold. About ten minutes on two cores; nothing else should run meanwhile.
"""

from __future__ import annotations

import json
import logging
import os
import time

import torch

from bench import language, overhead, video
from bench.measure import QUIET, ROOT, Row

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
    _print(found)
    target = ROOT / "runs" / "bench.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"name": row.name, "value": row.value, "bound": row.bound, "holds": row.holds} for row in found]
    target.write_text(json.dumps(lines, indent=2) + "\n")
    print(f"\n{target.relative_to(ROOT)}, {time.monotonic() - start:.0f} s")
    return int(any(row.holds is False for row in found))


def _print(found: list[Row]) -> None:
    width = max(len(row.name) for row in found)
    print(f"\n{'ratio':<{width}}  value  bound  holds  measured")
    words = {True: "yes", False: "NO", None: "-"}
    for row in found:
        bound = "-" if row.bound is None else f"{row.bound:.2f}"
        print(f"{row.name:<{width}}  {row.value:>5.3f}  {bound:>5}  {words[row.holds]:>5}  {row.detail}")


if __name__ == "__main__":
    raise SystemExit(main())
