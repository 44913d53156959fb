"""What KFP's local orchestrator costs: `motion-enhancer run motion_priors` against the same steps called one after another in one process.

Both sides start as a process of their own, on an empty store, with the same videos (4 synthetic clips), tiny models,
two shards and the same parameters, so both pay their imports. The pipeline starts a process a task and runs the two
shards side by side; the other side is `python -m bench.overhead SOURCE FOLDER`, which gives each step the executor
input that KFP would give it. Nothing is bounded: the ratio is large where the work is tiny, and says nothing of a real
run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import torch

from bench.measure import QUIET, time_ratio
from bench.table import ROOT, Row
from components.cli.main import executor_input
from components.core.artifacts import PriorSet, load_manifest
from components.models.registry import ensure_tiny
from components.runtime.declaration import Step
from components.runtime.parameters import Scalars
from components.runtime.runner import execute
from components.synthetic.scenes import write_set

SHARDS = ["0/2", "1/2"]
CHOICES: dict[str, Any] = {"vdm": "tiny-cogvideox", "num_steps": 2}
PARAMS: dict[str, dict[str, Any]] = {
    "ddim_inversion": {"height": 64, "width": 64, "num_frames": 17, "dtype": "float32"}
}
VIDEOS = 4


def rows(pairs: int = 2) -> Iterator[Row]:
    """The orchestrator's row of the table; the pipeline's second run, which finds everything cached, is not looked at."""
    ensure_tiny(CHOICES["vdm"])
    with tempfile.TemporaryDirectory() as name:
        folder, number = Path(name), count()
        write_set(folder / "scenes", preset="scenes", count=VIDEOS, seed=5)
        settings = [f"--set={key}={json.dumps(value)}" for key, value in _settings(folder / "scenes").items()]

        def pipeline() -> None:
            out = folder / f"pipeline-{next(number)}"
            _start(["components.cli.main", "run", "motion_priors", "--out", str(out), *settings])
            _check(next(out.glob("artifacts/*/prior-set/priors")))

        def steps() -> None:
            out = folder / f"steps-{next(number)}"
            _start(["bench.overhead", str(folder / "scenes"), str(out)])
            _check(out / "prior_set" / "priors")

        label = f"pipeline under kfp.local / steps in one process, time, {VIDEOS} videos"
        yield time_ratio(label, None, pipeline, steps, pairs, warm_up=False)


def _settings(source: Path) -> dict[str, Any]:
    fields = {f"params_{step}.{field}": value for step, params in PARAMS.items() for field, value in params.items()}
    return {"source": str(source), "shards": SHARDS, **CHOICES, **fields}


def _start(arguments: list[str]) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise RuntimeError(
            f"{arguments[0]} ended with code {answer.returncode}:\n{answer.stdout[-2000:]}{answer.stderr[-3000:]}"
        )


def _check(folder: Path) -> None:
    """Both sides end with a prior of every video.

    Raises:
        RuntimeError: one does not.
    """
    found = len(load_manifest(folder, PriorSet).lines)
    if found != VIDEOS:
        raise RuntimeError(f"{found} priors of {VIDEOS} videos in {folder}")


def extract(source: Path, folder: Path) -> Path:
    """Steps 0 to 4 and the prior set, with `plan` before them, in this process; returns the prior set's folder."""
    task = _tasks(folder, {"source": str(source), "shards": SHARDS, **CHOICES})
    planned = task("plan", "plan", [], "motion_priors")
    source_digest = {"source_digest": (planned / "source_digest").read_text()}
    videos = task("dataset_import", "dataset_import", [], "training", source_digest)
    maps, parts = [], []
    for k, shard in enumerate(SHARDS):
        inverted = task("ddim_inversion", f"ddim_inversion-{k}", [f"videos={videos / 'videos'}"], "", {"shard": shard})
        trajectories = [f"trajectories={inverted / 'trajectories'}"]
        captured = task("attention_capture", f"attention_capture-{k}", trajectories, "", {"shard": shard})
        maps.append(f"maps={captured / 'maps'}")
    heads = task("head_selection", "head_selection", maps, "")
    for k, shard in enumerate(SHARDS):
        words = task("token_selection", f"token_selection-{k}", [f"heads={heads / 'heads'}"], "", {"shard": shard})
        parts.append(f"shards={words / 'prior'}")
    return task("prior_set", "prior_set", parts, "collected") / "priors"


def _tasks(folder: Path, choices: dict[str, Any]) -> Callable[..., Path]:
    """A function that runs one task by step, folder name, inputs, form and further scalars, and returns its outputs' folder."""
    defaults = Scalars.model_validate({}).model_dump(mode="json")

    def task(name: str, label: str, inputs: list[str], form: str, extra: dict[str, str] | None = None) -> Path:
        step: Step[Any] = import_module(f"components.{name}.step").STEP
        chosen = step.form(form)
        given = {key: value for key, value in {**defaults, **choices, **(extra or {})}.items() if key in chosen.scalars}
        values = {**given, "store": (folder / "store").as_uri(), "params": PARAMS.get(name, {}), "rerun": "0"}
        values |= {key: PARAMS.get(key.removeprefix("params_"), {}) for key in chosen.step_params}
        execute(step, name, executor_input(step, folder / label, values, inputs))
        return folder / label

    return task


def main() -> None:
    """`python -m bench.overhead SOURCE FOLDER`: the side without an orchestrator."""
    torch.set_num_threads(1)
    extract(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())


if __name__ == "__main__":
    main()
