"""What each step costs beside the GPU's work as a data set grows: 1 k, 5 k, 25 k samples, and 133 k where it reduces.

Everything is remembered (`scale_made.py`), so what is left is what a step costs by itself: records, requests, memory.
Each task runs as its container does, in a process of its own, over a folder and over an S3 endpoint that answers after
10 ms (`scale_s3.py`); a sharded one as shard 0 of 8. `sft` is not remembered: from its start to the end of its first
update. What is short is tried twice; the try of the least CPU time counts. The exponent is the slope of log
CPU time over log n, beyond the CPU time of the same task at n = 20, over the sizes where this is at least `_SEEN`
seconds; where fewer than two are, the task has none.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.measure import prepare
from bench.scale_left_out import left_out_seconds
from bench.scale_made import Template, another, digest, extended, fabricate, templates
from bench.scale_tasks import (
    EXTRACTION,
    REDUCING,
    SHARDS,
    TASKS,
    TUNING,
    Cost,
    Endpoint,
    Task,
    World,
    endpoint,
    kfp_bytes,
    measure,
)
from bench.table import Row, finish
from components.core.records import Json
from components.core.units import readable_bytes
from components.kubeflow.tree import ROOT, tree_digest

SMALL, SIZES, LARGE = 20, (1_000, 5_000, 25_000), 133_000
MEASURED = (*EXTRACTION, TASKS["vlm_attention"], TASKS["sft"], TASKS["report"])
FAILURES = 40_000
_SEEN = 0.5  # seconds of CPU time that differ from the noise of a start
_AGAIN = 8.0  # a task that takes fewer seconds is tried twice
_PEAK = 1e9
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """A task at one size, over one kind of store."""

    task: Task
    kind: str
    samples: int
    cost: Cost

    @property
    def row(self) -> Row:
        """Its line of the table."""
        cost = self.cost
        detail = f"CPU {cost.cpu:.2f} s, peak {readable_bytes(cost.peak)}"
        if cost.requests is not None and cost.moved is not None:
            detail += f", {cost.requests} requests, {readable_bytes(cost.moved)}"
        return Row(f"{self.kind} {self.samples:>6} {self.task.name}: seconds", cost.seconds, None, detail)


# Stores ---------------------------------------------------------------------------------------------------------------


def made(root: Path, sizes: Sequence[int], servers: Mapping[str, Endpoint | None]) -> list[Template]:
    """Fabricate what is not there, and let every task run once on it, as in a run before; return the templates."""
    os.environ.update({name: value for one in servers.values() if one for name, value in one.environment.items()})
    computed = templates(root)
    name, marker = digest(computed), root / "made-of"
    if not marker.is_file() or marker.read_text() != name:  # other code: what it made before is not what it remembers
        for folder in root.glob("[0-9]*"):
            shutil.rmtree(folder)
        marker.write_text(name)
    for count in sizes:
        world, start = World(root, str(count), root.as_uri()), time.monotonic()
        if not (fabricated := world.folder / "fabricated").is_file():
            shutil.rmtree(world.folder, ignore_errors=True)
            kinds = ("file", "s3") if count <= max(SIZES) else ("file",)  # above no source is read over S3
            fabricate(world, computed, count, [uri_of(kind, root) for kind in kinds])
            fabricated.touch()
            log.info("%d samples fabricated in %.0f s", count, time.monotonic() - start)
        ran, code = world.folder / "ran", tree_digest(ROOT)
        if not ran.is_file() or ran.read_text() != code:
            shutil.rmtree(world.folder / "out", ignore_errors=True)
            world.run([*EXTRACTION, *TUNING])
            if count <= max(SIZES):  # what the import keeps of its entries is one for each address of the source
                other = replace(world, uri=uri_of("s3", root))
                other.run([TASKS["dataset_import"]], world.folder / "out-s3")
            ran.write_text(code)
            log.info("every task ran on %d samples: %.0f s", count, time.monotonic() - start)
    return computed


def uri_of(kind: str, root: Path) -> str:
    """Return the address of the root over one kind of store."""
    return root.as_uri() if kind == "file" else f"minio://{root.name}"


# Measurements ---------------------------------------------------------------------------------------------------------


def measured(world: World, tasks: Sequence[Task], kind: str, server: Endpoint | None) -> Iterator[Measured]:
    """Measure the tasks on what the tasks before them have put out."""
    for task in tasks:
        shard, target = 0 if task.sharded else None, world.folder / "measured" / f"{kind}-{task.name}"
        costs = list[Cost]()
        while not costs or (len(costs) == 1 and costs[0].seconds < _AGAIN):
            # another seed is another training: no try finds the one before
            own: Json = {"seed": time.time_ns() % 2**31} if task.name == "sft" else {}
            costs.append(measure(task, world.request(task, shard, target, **own), server))
        found = Measured(task, kind, int(world.name), min(costs, key=lambda cost: cost.cpu))
        log.info("%s %.2f s, %s", found.row.name, found.row.value, found.row.detail)
        yield found


def one_more(world: World, server: Endpoint, template: Template) -> Row:
    """Add one video to the source and run the whole extraction; the source is as before afterwards."""
    number, out = int(time.time()), world.folder / "more"
    shutil.rmtree(out, ignore_errors=True)
    costs: dict[str, int] = {}
    with extended(world, [another(template.content, number)], [template.text], number):
        for task, shard in world.each(EXTRACTION):
            target = world.outputs(task.name, shard, out)
            cost = measure(task, world.request(task, shard, target, out), server)
            costs[task.name] = costs.get(task.name, 0) + (cost.requests or 0)
    detail = ", ".join(f"{name} {count}" for name, count in costs.items())
    return Row(f"one more video at {world.name}: requests", sum(costs.values()), 2000, detail)


# Bounds ---------------------------------------------------------------------------------------------------------------


def bounds(found: Sequence[Measured]) -> Iterator[Row]:
    """Yield a row per bound and task: peak memory, exponent of CPU time, time of a shard's task."""
    for task in dict.fromkeys(one.task.name for one in found):
        own = [one for one in found if one.task.name == task]
        for kind in dict.fromkeys(one.kind for one in own):
            last = max((one for one in own if one.kind == kind), key=lambda one: one.samples)
            yield Row(f"{kind} {last.samples} {task}: peak memory, GB", last.cost.peak / _PEAK, 1.0, "")
            yield exponent(f"{kind} {task}: exponent of CPU time", [one for one in own if one.kind == kind])
        for one in own:
            if one.task.sharded and one.samples != SMALL:
                units = one.samples / SHARDS
                bound = 2 + 0.0002 * units
                detail = f"{one.cost.seconds:.2f} s of {bound:.2f} s, {units:.0f} units"
                yield Row(
                    f"{one.kind} {one.samples} {task}: time / bound of a shard", one.cost.seconds / bound, 1, detail
                )


def exponent(name: str, found: Sequence[Measured]) -> Row:
    """Return the slope of log CPU time over log n, beyond that of a start."""
    start = next(one.cost.cpu for one in found if one.samples == SMALL)
    beyond = {one.samples: one.cost.cpu - start for one in found if one.samples != SMALL}
    seen = {samples: cpu for samples, cpu in beyond.items() if cpu >= _SEEN}
    detail = f"start {start:.2f} s, beyond it " + ", ".join(f"{cpu:.2f} s at {n}" for n, cpu in beyond.items())
    if len(seen) < 2:
        return Row(name, 0.0, None, f"too little to fit: {detail}")
    slope = np.polyfit(np.log([*seen]), np.log([*seen.values()]), 1)[0]
    return Row(name, float(slope), 1.05, detail)


def moved(world: World, shards: int) -> Row:
    """Return what KFP moves in a run, in units of what the prior set's lines are."""
    total, lines = kfp_bytes(world, shards), line_bytes(world.outputs("prior_set") / "priors" / "manifest.json")
    name = f"{world.name} in {shards} shards: bytes moved by KFP / bytes of the prior set's parts"
    return Row(name, total / lines, 1.5, f"{readable_bytes(total)} / {readable_bytes(lines)}")


def line_bytes(manifest: Path) -> int:
    """Return the bytes of a manifest's lines: of their parts, or of the manifest that holds them."""
    lines = json.loads(manifest.read_bytes())["lines"]
    if isinstance(lines, list):
        return manifest.stat().st_size
    files = [part[name] for part in lines["parts"] for name in ("lines", "videos")]
    return sum(file["bytes"] for file in files if file)


def main() -> int:
    """Measure, print the table, write `runs/scale.json`; the code is 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT / "runs" / "scale", help="where the stores are fabricated")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--large", type=int, default=LARGE, help="size of the reducing steps; 0: none")
    parser.add_argument("--kinds", nargs="+", default=("file", "s3"), choices=("file", "s3"))
    parser.add_argument("--failures", type=int, default=FAILURES)
    parser.add_argument("--fabricate", action="store_true", help="end before the measurements")
    arguments = parser.parse_args()
    prepare("INFO")
    root, sizes, rows = arguments.root.absolute(), arguments.sizes, list[Row]()
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        server = stack.enter_context(endpoint(root))
        servers: dict[str, Endpoint | None] = {"file": None, "s3": server}
        large = [arguments.large] if arguments.large else []
        computed = made(root, [SMALL, *sizes, *large], servers)
        if arguments.fabricate:
            return 0
        found: list[Measured] = []
        for kind in arguments.kinds:
            # over the first kind alone: over both the bench would take longer than it may
            for count in (SMALL, *sizes, *(large if kind == arguments.kinds[0] else [])):
                tasks = [task for task in MEASURED if count not in large or task.name in REDUCING]
                world = World(root, str(count), uri_of(kind, root))
                found += measured(world, tasks, kind, servers[kind])
        rows += [one.row for one in found]
        rows += bounds(found)
        last = World(root, str(max(sizes)), uri_of("s3", root))
        rows += [moved(last, SHARDS), moved(last, 100), one_more(last, server, computed[0])]
    rows.append(
        Row(f"left_out of {arguments.failures} failures: CPU seconds", left_out_seconds(arguments.failures), 2.0, "")
    )
    return finish(rows, "scale", "what")


if __name__ == "__main__":
    raise SystemExit(main())
