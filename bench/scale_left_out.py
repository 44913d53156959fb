"""How long a reducing step takes to carry on what the tasks before it have left out."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from bench.scale_tasks import SHARDS, TASKS
from components.core.artifacts import AttentionMaps, HeadSelection
from components.core.records import Failure, Json
from components.runtime.context import Context
from components.runtime.runner import executor_input


def left_out_seconds(count: int) -> float:
    """Return the CPU time of reading the maps of 8 shards and of publishing, `count` units being left out.

    Half of them were left out before the shards, so that all carry them; the others belong to one shard each.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = [_failure("dataset_import", k) for k in range(count // 2)]
        for shard in range(SHARDS):
            own = [_failure("attention_capture", k) for k in range(count // 2) if k % SHARDS == shard]
            context = _context(folder, "attention_capture", f"maps-{shard}", {"shard": f"{shard}/{SHARDS}"}, {})
            context.note_left_out([*common, *own])
            context.publish("maps", context.manifest(AttentionMaps, shard=f"{shard}/{SHARDS}", lines=[]))
        start = time.process_time()
        inputs = {"maps": [folder / f"maps-{shard}" / "maps" for shard in range(SHARDS)]}
        context = _context(folder, "head_selection", "heads", {"head_ratio": 0.5}, inputs)
        context.shards("maps", AttentionMaps)
        context.publish("heads", context.manifest(HeadSelection, lines=[], heads=[], saturation={}))
        seconds = time.process_time() - start
        if len(context.left_out) != count:
            raise RuntimeError(f"{len(context.left_out)} of {count} failures were carried on")
    return seconds


def _failure(task: str, number: int) -> Failure:
    return Failure(unit=f"{number:016x} ('{number:06d}' of {number:06d}.mp4)", task=task, reason="it does not decode")


def _context(folder: Path, task: str, out: str, shared: Json, inputs: dict[str, list[Path]]) -> Context[Any, Any]:
    step = TASKS[task].declaration
    known = {"vdm": "tiny-cogvideox", "num_steps": 2, "text": "both", "seed": 1, "store_patience": 1.0}
    given = known | {"store": (folder / "store").as_uri()} | shared
    values = {name: given[name] for name in step.form().shared.model_fields} | {"params": {}, "rerun": "0"}
    return Context(step, task, executor_input(step, folder / out, values, inputs))
