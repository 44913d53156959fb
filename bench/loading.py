"""Host memory while four processes of a training load one model, in copies of that model.

The processes (gloo, on the CPU also where there is a GPU) go the product's way: the first reads the checkpoint, all of
them end with their parts in the engine. What counts is anonymous and shared memory above what a process had before it
began to load, after it had set up a training of the tiny twin. Pages of the checkpoint's mapped files do not count:
they are the kernel's cache, which it gives up when memory is short. The value is the largest sum over the processes at
one time; the sum of each one's own peak stands beside it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from bench.language import _CPU, write_model
from bench.measure import MIB, QUIET, prepare, status_bytes
from bench.table import Row
from bench.training import training
from components.models.vlm.qwen2_5_vl import make_tiny
from components.runtime.launch import die_with_parent
from components.sft.launch import run_processes
from components.sft.processes import joined

COUNT = 4
SETUP = _CPU._replace(hidden=1024, feed_forward=4096, layers=20, heads=16)
_POLL_S = 0.003


def rows() -> Iterator[Row]:
    """Measure the loading's row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny(folder / "tiny")
        write_model(folder / "model", SETUP)
        copy = sum(file.stat().st_size for file in (folder / "model").glob("*.safetensors"))
        with patch.dict(os.environ, {**QUIET, "CUDA_VISIBLE_DEVICES": ""}):
            if code := run_processes(COUNT, ["-m", "bench.loading", name], folder, 60.0):
                raise RuntimeError(f"a process that loads ended with code {code}; its error is above")
        found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(COUNT)]
    together = _most([(time, rank, size) for rank, one in enumerate(found) for time, size in one])
    apart = [max(size for _, size in one) for one in found]
    detail = f"{together / MIB:.0f} MiB / {copy / MIB:.0f} MiB; each process's own peak: "
    detail += ", ".join(f"{size / copy:.2f}" for size in apart)
    yield Row(f"host memory of {COUNT} processes that load / one copy of the weights", together / copy, 1.5, detail)


def _most(readings: list[tuple[float, int, int]]) -> int:
    """Return the largest sum of the processes' last readings, each one (time, process, bytes)."""
    now, most = [0] * COUNT, 0
    for _, rank, size in sorted(readings):
        now[rank] = size
        most = max(most, sum(now))
    return most


def main(argv: list[str]) -> None:
    """`python -m bench.loading FOLDER` as one of the processes: load, and write the readings into the folder."""
    die_with_parent()
    prepare("WARNING")
    folder = Path(argv[0])
    with joined(10.0) as processes:
        training(folder / "tiny", processes, 1.0)  # whatever is imported or made once
        processes.gather(None)
        readings, ended = list[tuple[float, int]](), threading.Event()
        before = _private()

        def watch() -> None:
            while not ended.is_set():
                readings.append((time.monotonic(), _private() - before))
                time.sleep(_POLL_S)

        thread = threading.Thread(target=watch)
        thread.start()
        made = training(folder / "model", processes, 1.0)
        ended.set()
        thread.join()
        held = sum(one.numel() for one in made.engine.trained)
        assert 0 < held < 1.1 / COUNT * sum(shape.numel() for shape in made.module.shapes.values())
        (folder / f"{processes.rank}.json").write_text(json.dumps(readings))


def _private() -> int:
    return status_bytes("RssAnon") + status_bytes("RssShmem")


if __name__ == "__main__":
    main(sys.argv[1:])
