"""`python -m bench.store_gc [--samples N]`: memory of `store gc` and `store check` on a fabricated store.

The store has nine works for each of 25 000 samples, each with its entry, a video of each sample and a file of every
second work, and a prior set over them, in parts. A tenth of the works more are of runs that nobody kept. Both commands
run in processes of their own, as they do for a person; what counts is the largest resident memory (VmHWM), everything
included.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.table import ROOT, Row, finish
from components.cli.main import app

SAMPLES, BOUND_MB, OLD_DAYS, IN_A_PART = 25_000, 500, 60, 1000
STEPS = ("dataset_import", "ddim_inversion", "attention_capture", "attention_capture_pictures", "token_selection")
STEPS += ("token_selection_pictures", "vlm_attention", "vlm_attention_maps", "benchmark_eval")
_DATA = b"x"


def rows(samples: int = SAMPLES) -> Iterator[Row]:
    """Fabricate the store, measure both commands."""
    with tempfile.TemporaryDirectory() as name:
        objects = fabricate(_files(Path(name)), samples)
        for command in ("check", "gc"):
            start = time.monotonic()
            peak, printed = run(command, Path(name))
            size = f"{objects:,} objects".replace(",", " ")
            detail = f"{peak / 1e6 / objects * 1e6:.0f} bytes an object, {time.monotonic() - start:.0f} s: {printed}"
            yield Row(f"store {command}, {size}: peak memory in MB", peak / 1e6, BOUND_MB, detail)


def run(command: str, store: Path) -> tuple[int, str]:
    """Run a command in a process of its own; return its peak in bytes, and its last line."""
    words = [sys.executable, "-m", "bench.store_gc", "--probe", command, str(store)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"store {command} ended with code {done.returncode}:\n{done.stderr[-3000:]}")
    *_, printed, peak = done.stdout.splitlines()
    return int(peak), printed


def fabricate(put: Callable[[str, bytes], None], samples: int, dropped: float = 0.1) -> int:
    """Write a store by `put`, which takes path and content; return how many objects it has.

    `dropped`: works that nothing kept leads to, as a share of those of the samples.
    """
    store, lines = _Writer(put), list[dict[str, Any]]()
    for number in range(samples):
        lines.append(_sample(store, f"sample {number}"))
    for number in range(round(samples * dropped)):
        _sample(store, f"dropped {number}")
    lines.sort(key=lambda line: str(line["line"]["video"]))
    parts = []
    for start in range(0, samples, IN_A_PART):
        some = lines[start : start + IN_A_PART]
        parts.append(
            {
                "count": len(some),
                "first": some[0]["line"]["video"],
                "last": some[-1]["line"]["video"],
                "lines": store.part([line["line"] for line in some]),
                "videos": {**store.part([line["video"] for line in some]), "count": len(some)},
            }
        )
    head = {"kind": "PriorSet", "schema_version": "2", "provenance": {}, "left_out": {"parts": []}, "heads": []}
    data = _canonical({**head, "lines": {"parts": parts}, "saturation": {}})
    store.put(f"manifests/{_sha256(data)}.json", data)
    return store.count


def _files(root: Path) -> Callable[[str, bytes], None]:
    """Return what writes old files into a folder."""
    old = time.time() - OLD_DAYS * 86400

    def put(path: str, data: bytes) -> None:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        os.utime(file, (old, old))

    return put


class _Writer:
    """Counts what it writes."""

    def __init__(self, put: Callable[[str, bytes], None]) -> None:
        self._put, self.count = put, 0

    def put(self, path: str, data: bytes) -> None:
        self._put(path, data)
        self.count += 1

    def file(self, path: str, task: str) -> dict[str, Any]:
        self.put(path, _DATA)
        return {"path": path, "sha256": _sha256(_DATA), "bytes": len(_DATA), "task": task}

    def part(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        text = b"".join(_canonical(line) + b"\n" for line in lines)
        self.put(f"manifests/parts/{_sha256(text)}.jsonl.gz", gzip.compress(text, 1, mtime=0))
        return {"sha256": _sha256(text), "bytes": len(text)}


def _sample(store: _Writer, name: str) -> dict[str, Any]:
    """Write the works of a sample, each of which reads the one before; return its line and its video."""
    video = _sha256(name.encode())
    file = {**store.file(f"videos/{video}.mp4", "dataset_import"), "sha256": video}
    clip = {"file": file, "name": f"clips/{name}.mp4", "kind": "video"}
    clip |= {"width": 1280, "height": 720, "rotation": 0, "duration": 4.0, "times": [k / 30 for k in range(120)]}
    before, named = {"video": {"address": f"file:///{name}", "size": 1, "stamp": "1"}}, dict[str, Any]()
    key = ""
    for number, step in enumerate(STEPS):
        key = _sha256(f"{step} {name}".encode())[:32]
        files = {}
        if number % 2:
            path = f"{step}/{key}/result-{_sha256(_DATA)[:16]}.safetensors"
            named[step] = store.file(path, step)
            files["result"] = {field: value for field, value in named[step].items() if field != "task"}
        if step == "dataset_import":
            files["video"] = {field: value for field, value in clip["file"].items() if field != "task"}
        entry = {"step": step, "version": "1", "key": key, "unit": name, "reads": before, "files": files}
        store.put(f"{step}/{key}/entry.json", _canonical({**entry, "numbers": {"a": 0.1, "b": [1, 2, 3]}}))
        before = {"before": key, "video": video}
    sample = {"id": video[:16], "uid": name, "question": "Describe the motion. " * 4, "response": "It moves. " * 20}
    grid = {"times": [[k / 10, (k + 1) / 10] for k in range(13)], "rows": 30, "cols": 45, "box": [0, 1, 0, 1]}
    sample |= {"is_instruction": True, "answer": ""}
    line = {"video": video, "sample": sample, "key": key, "grid": grid, "pieces": [], "truncated": 0}
    line |= {"heads": list(range(48)), "statistics": named["ddim_inversion"], "per_frame": named["vlm_attention_maps"]}
    line |= {"prior": named["token_selection_pictures"], "pictures": {"heads": named["attention_capture_pictures"]}}
    return {"line": {**line, "confidence": {"concentration": 0, "dynamics": 0, "value": 0}}, "video": clip}


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def probe(command: str, root: Path) -> None:
    """Run a command here, print its peak in bytes."""
    app(["store", command, "--store", str(root), *(["--delete"] if command == "gc" else [])], standalone_mode=False)
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")))


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.store_gc", description=rows.__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--probe", nargs=2, metavar=("COMMAND", "STORE"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.probe:
        probe(given.probe[0], Path(given.probe[1]))
        return 0
    return finish(list(rows(given.samples)), "store_gc", "store")


if __name__ == "__main__":
    raise SystemExit(main())
