"""The tasks of a run, wired as the pipeline wires them, and what each one costs in a process of its own.

A task runs as its container does, `python -m components STEP TASK EXECUTOR_INPUT`: wall-clock and CPU time and the
resident peak are the kernel's (`wait4`), of the process and of those that it started. Requests and bytes are counted
by the S3 endpoint. KFP moves a task's inputs into its pod and its outputs out of it: the bytes of their folders.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from bench.measure import QUIET
from components.core.records import Json
from components.kubeflow.descriptions import shared_fields
from components.kubeflow.tree import ROOT
from components.runtime.declaration import Step, declared
from components.runtime.parameters import ShardParams, pipeline_default
from components.runtime.runner import execute, executor_input

SHARDS = 8
CHILD = Path(__file__).with_name("scale_child.py")
PARAMS: dict[str, Json] = {
    "dataset_import": {"allow_subset": True, "processes": 1},
    "ddim_inversion": {"height": 64, "width": 64, "num_frames": 17, "dtype": "float32", "pictures": 0},
    "attention_capture": {"rows": 8, "pictures": 0},
    "vlm_attention": {"pictures": 4},
    "sft": {"max_steps": 1, "global_batch": 2, "held_out": 0.001, "val_samples": 2, "processes": 1},
    "report": {"pictures": 4, "masked": 1},
}
Found = Mapping[str, Path]  # a task's outputs by name


@dataclass(frozen=True)
class Task:
    """A task: its step, that step's form, and which output of which task each input is."""

    name: str
    step: str
    inputs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    form: str = ""

    @property
    def declaration(self) -> Step[Any]:
        """The step's declaration."""
        return declared(self.step)

    @property
    def sharded(self) -> bool:
        """Whether it runs once per shard."""
        return issubclass(self.declaration.form(self.form).shared, ShardParams)


_MAPS = {"maps": ("vlm_attention", "maps")}
_MODEL = {"model": ("sft", "model")}
_ITEMS = {"videos": ("benchmark_import", "videos")}
EXTRACTION = (
    Task("plan", "plan", form="motion_priors"),
    Task("dataset_import", "dataset_import", form="training"),
    Task("ddim_inversion", "ddim_inversion", {"videos": ("dataset_import", "videos")}),
    Task("attention_capture", "attention_capture", {"trajectories": ("ddim_inversion", "trajectories")}),
    Task("head_selection", "head_selection", {"maps": ("attention_capture", "maps")}),
    Task("token_selection", "token_selection", {"heads": ("head_selection", "heads")}),
    Task("prior_set", "prior_set", {"shards": ("token_selection", "prior")}, "collected"),
)
TUNING = (
    Task("vlm_attention", "vlm_attention", {"priors": ("prior_set", "priors")}, "frozen"),
    Task("sft", "sft", _MAPS),
    Task("benchmark_import", "dataset_import", form="benchmark"),
    Task("baseline_eval", "benchmark_eval", _ITEMS, "untouched"),
    Task("tuned_eval", "benchmark_eval", _ITEMS | _MODEL, "tuned"),
    Task("tuned_attention", "vlm_attention", {"priors": ("prior_set", "priors")} | _MODEL, "tuned"),
    Task(
        "report",
        "report",
        {
            "untouched": ("baseline_eval", "result"),
            "tuned": ("tuned_eval", "result"),
            "maps": ("tuned_attention", "maps"),
            "priors": ("prior_set", "priors"),
        }
        | _MODEL,
    ),
)
TASKS = {task.name: task for task in (*EXTRACTION, *TUNING)}
REDUCING = ("head_selection", "prior_set", "sft", "report")


@dataclass(frozen=True)
class Cost:
    """What one task took. `requests` and `moved` are those of the store, None where it is a folder."""

    seconds: float
    cpu: float
    peak: int  # bytes
    requests: int | None = None
    moved: int | None = None  # bytes read and written


@dataclass(frozen=True)
class World:
    """A data set in `<root>/<name>`: its source, its store, and what its tasks have put out."""

    root: Path
    name: str
    uri: str  # of the root: `file://…` or `minio://…`
    shards: int = SHARDS

    @property
    def folder(self) -> Path:
        """Where everything of it lies."""
        return self.root / self.name

    @property
    def shared(self) -> Json:
        """The shared parameters of all steps."""
        base = f"{self.uri}/{self.name}"
        defaults = {name: pipeline_default(found) for name, found in shared_fields().items()}
        own = {"source": f"{base}/source", "store": f"{base}/store", "vdm": str(self.root / "wide-cogvideox")}
        bench = f"motionbench={(self.root / 'bench').as_uri()}"
        chosen = {"vlm": "tiny-qwen2.5-vl", "num_steps": 2, "benchmarks": [bench], "benchmark": bench}
        return defaults | own | chosen | {"shards": [f"{k}/{self.shards}" for k in range(self.shards)]}

    def outputs(self, name: str, shard: int | None = None, out: Path | None = None) -> Path:
        """Return the folder of a task's outputs."""
        return (out or self.folder / "out") / (name if shard is None else f"{name}-{shard}")

    def inputs(self, task: Task, shard: int | None, out: Path | None = None) -> dict[str, list[Path]]:
        """Return a task's input artifacts: of a sharded task the same shard's, or all shards' where it is collected."""
        found = {}
        for name, (maker, output) in task.inputs.items():
            shards: Sequence[int | None] = [None]
            if TASKS[maker].sharded:
                shards = range(self.shards) if shard is None else [shard]
            found[name] = [self.outputs(maker, one, out) / output for one in shards]
        return found

    def request(self, task: Task, shard: int | None, target: Path, out: Path | None = None, **own: Any) -> Json:
        """Return KFP's executor input of a task that reads from `out`; `own` replaces shared parameters."""
        form, given = task.declaration.form(task.form), self.shared | {"shard": f"{shard}/{self.shards}"} | own
        values = {key: given[key] for key in form.shared.model_fields if key in given}
        values |= {key: PARAMS.get(key.removeprefix("params_"), {}) for key in form.step_params}
        values |= {"params": PARAMS.get(task.step, {}), "rerun": "0"}
        return executor_input(task.declaration, target, values, self.inputs(task, shard, out))

    def run(self, tasks: Sequence[Task], out: Path | None = None) -> None:
        """Run all tasks, every shard, in this process."""
        for task, shard in self.each(tasks):
            target = self.outputs(task.name, shard, out)
            execute(task.declaration, task.name, self.request(task, shard, target, out))

    def each(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, int | None]]:
        """Yield every task, a sharded one once per shard."""
        for task in tasks:
            for shard in range(self.shards) if task.sharded else [None]:
                yield task, shard


def measure(task: Task, request: Json, server: Endpoint | None) -> Cost:
    """Run a task in a process of its own and return what it took.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-S", str(CHILD), sys.executable, "-m", "components"]
    command += [task.step, task.name, json.dumps(request)]
    environment = {**os.environ, **QUIET, **(server.environment if server else {}), "LOG_LEVEL": "WARNING"}
    if server:
        server.counts()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if code := found.pop("code"):
        raise RuntimeError(f"{task.name} ended with code {code}:\n{done.stderr[-3000:]}")
    counts = server.counts() if server else None
    moved = None if counts is None else counts.pop("bytes in", 0) + counts.pop("bytes out", 0)
    return Cost(**found, requests=None if counts is None else sum(counts.values()), moved=moved)


def kfp_bytes(world: World, shards: int) -> int:
    """Return the bytes of all inputs and outputs of all tasks in a run of so many shards.

    A shard's artifact is a head, which is no smaller where a shard holds more lines: those of the world's own number of
    shards stand for the others.
    """
    total, factor = 0.0, shards / world.shards
    for task, shard in world.each([*EXTRACTION, *TUNING]):
        made = sum(size(world.outputs(task.name, shard) / name) for name in task.declaration.outputs)
        total += made * (factor if task.sharded else 1)
        for folders in world.inputs(task, shard).values():
            read = sum(map(size, folders))
            total += read * (factor if task.sharded or len(folders) > 1 else 1)
    return round(total)


def size(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@dataclass(frozen=True)
class Endpoint:
    """The S3 endpoint of `bench.scale_s3`, while it serves."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {"S3_ENDPOINT": self.url, "S3_ACCESS_KEY": "bench", "S3_SECRET_KEY": "bench-secret"}

    def counts(self) -> dict[str, int]:
        """Return requests and bytes by kind since the last call."""
        with urlopen(f"{self.url}/-/counts") as answer:
            found: dict[str, int] = json.loads(answer.read())
        return found


@contextmanager
def endpoint(root: Path, delay: float = 10.0) -> Iterator[Endpoint]:
    """Serve the folder `root` as the bucket of its name; each answer comes `delay` milliseconds after its request."""
    command = [sys.executable, "-m", "bench.scale_s3", str(root.parent), "--delay", str(delay)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Endpoint(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()
