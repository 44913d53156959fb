"""`python -m bench.export [--samples N]`: an exported prior set of many samples, and what moving and reading it takes.

The set is fabricated: every sample has a video and a line of its own with 50 text tokens and 120 frames, and its
tensors are further names of one sample's. Each command runs in a process of its own; its memory is the resident peak
(VmHWM, reset when everything is imported) and what is resident then. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.table import ROOT, Row, finish
from components.core.artifacts import PriorLine, PriorSet
from components.core.records import (
    Confidence,
    Grid,
    HeadRow,
    PieceCounts,
    Ref,
    Sample,
    ScoredPiece,
    StepRecord,
    Video,
    canonical_json,
    sha256,
)
from components.store.entries import Store
from components.store.tensors import pack

MIB = 2**20
PIECES, FRAMES, GRID = 50, 120, (5, 4, 4)
SAMPLES = 25_000
_WATCH = """
import json, sys, time
{imports}
def status(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")
before, start = status("VmRSS"), time.perf_counter()
{work}
print(json.dumps({{"before": before, "peak": status("VmHWM"), "seconds": time.perf_counter() - start}}))
"""
_WORK = {
    "export": ("from components.cli.transfer import export", "export(sys.argv[1], [sys.argv[2]], store=sys.argv[3])"),
    "import": (
        "from pathlib import Path\nfrom components.cli.transfer import import_",
        "import_(Path(sys.argv[1]), store=sys.argv[2])",
    ),
    "read_priors": (
        "import torch\nfrom components.prior_set.reading import read_priors",
        "assert sum(1 for _ in read_priors(sys.argv[1])) == int(sys.argv[2])",
    ),
    "duckdb": (
        "import duckdb",
        "found = duckdb.sql(f\"select count(*), sum(len(pieces)) from '{sys.argv[1]}/samples.parquet'\").fetchall()\n"
        "assert found == [(int(sys.argv[2]), 50 * int(sys.argv[2]))], found",
    ),
    "load_dataset": (
        "import datasets",
        "found = datasets.load_dataset(sys.argv[1], split='train', cache_dir=sys.argv[3])\n"
        "assert len(found) == int(sys.argv[2])",
    ),
}


def fabricate(store: Store, count: int) -> str:
    """Publish a set of `count` samples in a store on this machine; returns its digest."""
    root = Path(store.backend.uri.removeprefix("file://"))
    pieces = [
        ScoredPiece(
            **{"index": k, "token": f"▁w{k}", "field": "response", "start": 3 * k, "end": 3 * k + 2},
            **{"score": k / 7, "standardized": k / 9 - 2, "selected": k % 2 == 0},
        )
        for k in range(PIECES)
    ]
    files = {
        "pieces.json": canonical_json([piece.model_dump() for piece in pieces]),
        "prior.safetensors": pack({"prior": torch.ones(PIECES // 2, *GRID)}),
        "per_frame.safetensors": pack({"per_frame": torch.ones(PIECES, GRID[0])}),
        "statistics.safetensors": pack({"dfc": torch.ones(48)}),
    }
    for name, data in files.items():
        store.backend.put(f"made/{name}", data)

    def refs(key: str) -> dict[str, Ref]:
        found = {}
        (root / "token_selection" / key).mkdir(parents=True)
        for name, data in files.items():
            role, _, ending = name.partition(".")
            path = f"token_selection/{key}/{role}-{sha256(data)[:16]}.{ending}"
            os.link(root / "made" / name, root / path)
            found[role] = Ref(path=path, sha256=sha256(data), bytes=len(data), task="token_selection")
        return found

    def lines() -> Iterator[PriorLine]:
        videos = sorted((sha256(f"video {k}".encode()), k) for k in range(count))
        for name, k in videos:
            data = f"video {k}".encode()
            path = root / f"videos/{name}.mp4"
            path.write_bytes(data)
            file = Ref(path=f"videos/{name}.mp4", sha256=name, bytes=len(data), task="dataset_import")
            times = [n / 25 for n in range(FRAMES)]
            size = {"width": 640, "height": 360, "rotation": 0, "duration": FRAMES / 25}
            words = " ".join(f"w{n}" for n in range(PIECES))
            said = {"question": f"What happens in {k}?", "response": words, "is_instruction": False, "answer": ""}
            yield PriorLine(
                video=Video(file=file, name=f"clips/{k:06d}.mp4", times=times, **size),
                sample=Sample(id=name[:16], uid=str(k), source="a" if k % 2 else "b", **said),
                key=name[:32],
                grid=Grid(times=[(n * 1.0, n + 1.0) for n in range(GRID[0])], rows=4, cols=4, box=(0, 1, 0, 1)),
                counts=PieceCounts(pieces=PIECES, selected=PIECES // 2),
                confidence=Confidence(concentration=0.25, dynamics=k / count, value=(0.25 * k / count) ** 0.5),
                truncated=0,
                heads=[1, 2, 3],
                **refs(name[:32]),
            )

    (root / "videos").mkdir(parents=True, exist_ok=True)
    made = store.lines(PriorLine, lines())
    head = HeadRow(head=0, dfc=1, dfc_stderr=0, tcs=1, dsr=1, z=(0, 0, 0), score=0, chosen=1, samples=count)
    record = StepRecord(version="1", params={}, scalars={})
    fields = {"provenance": {"prior_set": record}, "heads": [head], "saturation": {}}
    return store.publish(PriorSet(kind="PriorSet", lines=made, **fields))


@dataclass(frozen=True)
class Measured:
    """What a piece of work took: resident bytes when all was imported, and at the peak."""

    before: int
    peak: int
    seconds: float


def measured(what: str, *arguments: object) -> Measured:
    """Run one of `_WORK` in a process of its own."""
    imports, work = _WORK[what]
    command = [sys.executable, "-c", _WATCH.format(imports=imports, work=work), *map(str, arguments)]
    known = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=known)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def rows(count: int) -> Iterator[Row]:
    """Yield the peak of each command on a set of `count` samples, in MiB: of the whole process, or beyond imports."""
    with tempfile.TemporaryDirectory(prefix="bench-export-") as name:
        folder = Path(name)
        store = Store((folder / "store").as_uri())
        digest = fabricate(store, count)
        exported, other = folder / "exported", (folder / "other").as_uri()
        runs = {
            "export": (f"sha256:{digest}", exported, store.uri),
            "import": (exported, other),
            "read_priors": (exported, count),
            "duckdb": (exported, count),
            "load_dataset": (exported, count, folder / "cache"),
        }
        bounds = {"export": 300, "import": 300, "read_priors": 100}
        for what, arguments in runs.items():
            found = measured(what, *arguments)
            whole, more = found.peak / MIB, (found.peak - found.before) / MIB
            value, kind = (whole, "whole process") if what in ("export", "import") else (more, "beyond its imports")
            detail = f"{found.seconds:.1f} s, {found.before / MIB:.0f} MiB after imports, {whole:.0f} MiB at the peak"
            yield Row(f"{what} of {count} samples: MiB, {kind}", value, bounds.get(what), detail)


def main() -> int:
    """Measure, print, write `runs/bench-export.json`."""
    parser = argparse.ArgumentParser(prog="python -m bench.export", description="Move and read a large prior set.")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    return finish(list(rows(parser.parse_args().samples)), "bench-export", "memory")


if __name__ == "__main__":
    raise SystemExit(main())
