"""`make bench`: prints the table of measured claims and writes it to `runs/bench.json`; ends with 1 when a bound does not hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from bench import language, pipeline, video
from bench.measure import Row


def main() -> int:
    """Measure everything, one table."""
    torch.set_num_threads(1)
    found: list[Row] = []
    for part in (video.rows, language.rows, pipeline.rows):
        for row in part():
            found.append(row)
            verdict = "" if row.bound is None else f"≤ {row.bound:g} {'holds' if row.holds else 'DOES NOT HOLD'}"
            print(f"{row.name:<70}{row.value:>8.3f}  {verdict:<24}{row.detail}", flush=True)
    target = Path("runs/bench.json")
    target.parent.mkdir(exist_ok=True)
    kept = [{"name": row.name, "value": row.value, "bound": row.bound, "holds": row.holds} for row in found]
    target.write_text(json.dumps(kept, indent=1) + "\n")
    return int(any(row.holds is False for row in found))


if __name__ == "__main__":
    sys.exit(main())
