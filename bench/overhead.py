"""What KFP's local orchestrator costs: `motion-enhancer run motion_priors` against the same steps in one process.

Both sides start as a process of their own, on an empty store, with the same videos (4 synthetic clips), tiny models,
two shards and the same parameters, so both pay their imports. The pipeline starts one process per task and runs the two
shards side by side; the other side is `python -m bench.overhead SOURCE FOLDER`, which calls the steps one after
another. Nothing is bounded: the ratio is large where the work is tiny, and predicts nothing for a real run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch

from bench.measure import QUIET, time_ratio
from bench.table import ROOT, Row
from components.core.artifacts import PriorSet, load_manifest
from components.kubeflow.descriptions import shared_fields
from components.models.registry import ensure_tiny
from components.runtime.declaration import declared
from components.runtime.parameters import pipeline_default
from components.runtime.runner import run_step
from components.synthetic.scenes import write_set

SHARDS = ["0/2", "1/2"]
CHOICES: dict[str, Any] = {"vdm": "tiny-cogvideox", "num_steps": 2}
PARAMS = {"ddim_inversion": {"height": 64, "width": 64, "num_frames": 17, "dtype": "float32"}}
VIDEOS = 4


def rows(pairs: int = 2) -> Iterator[Row]:
    """Compare the first runs; a pipeline's second run finds every task in KFP's cache."""
    ensure_tiny(CHOICES["vdm"])
    with tempfile.TemporaryDirectory() as name:
        folder, number = Path(name), count()
        write_set(folder / "scenes", preset="scenes", count=VIDEOS, seed=5)
        settings = [f"--set={key}={json.dumps(value)}" for key, value in _settings(folder / "scenes").items()]

        def pipeline() -> None:
            out = folder / f"pipeline-{next(number)}"
            _start(["components.cli", "run", "motion_priors", "--out", str(out), *settings])
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
    command, environment = [sys.executable, "-m", *arguments], {**os.environ, **QUIET}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        output = f"{done.stdout[-2000:]}{done.stderr[-3000:]}"
        raise RuntimeError(f"{arguments[0]} ended with code {done.returncode}:\n{output}")


def _check(folder: Path) -> None:
    """Compare the number of priors with the number of videos.

    Raises:
        RuntimeError: they differ.
    """
    found = len(load_manifest(folder, PriorSet).lines)
    if found != VIDEOS:
        raise RuntimeError(f"{found} priors of {VIDEOS} videos in {folder}")


def extract(source: Path, folder: Path) -> None:
    """Run `plan` and the steps up to the prior set in this process; each task's outputs go to a folder of its name."""
    known = {name: pipeline_default(field) for name, field in shared_fields().items()} | CHOICES
    known |= {"source": str(source), "shards": SHARDS, "store": (folder / "store").as_uri()}

    def task(name: str, inputs: dict[str, list[Path]], form: str = "", shard: str = "") -> dict[str, Path]:
        step, given = declared(name), known | {"shard": shard}
        values = {key: given[key] for key in step.form(form).shared.model_fields if key in given}
        values |= {key: PARAMS.get(key.removeprefix("params_"), {}) for key in step.form(form).step_params}
        values |= {"params": PARAMS.get(name, {}), "rerun": "0"}
        return run_step(step, folder / (f"{name}-{shard[0]}" if shard else name), values, inputs)

    planned = task("plan", {}, "motion_priors")
    known["source_digest"] = planned["source_digest"].read_text()
    videos = [task("dataset_import", {}, "training")["videos"]]
    maps = []
    for shard in SHARDS:
        trajectories = [task("ddim_inversion", {"videos": videos}, shard=shard)["trajectories"]]
        maps.append(task("attention_capture", {"trajectories": trajectories}, shard=shard)["maps"])
    heads = [task("head_selection", {"maps": maps})["heads"]]
    parts = [task("token_selection", {"heads": heads}, shard=shard)["prior"] for shard in SHARDS]
    task("prior_set", {"shards": parts}, "collected")


def main() -> None:
    """`python -m bench.overhead SOURCE FOLDER`: the side without an orchestrator."""
    torch.set_num_threads(1)
    extract(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())


if __name__ == "__main__":
    main()
