"""What the pipeline costs over calling the same step functions in one process: orchestration, processes, imports. Reported, no bound."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.measure import QUIET, ROOT, Row
from components.core.step import execute
from components.media.scenes import write_set
from components.orchestration.cli import executor_input

INVERSION = {"height": 64, "width": 64, "num_frames": 17, "dtype": "float32"}
SCALARS = {"vdm": "tiny-cogvideox", "num_steps": 5, "head_ratio": 0.5, "token_ratio": 0.5, "text": "both", "seed": 1, "shard": "0/1"}


def rows() -> list[Row]:
    """Wall time of `motion_priors` on four clips over that of its steps called one after the other in this process."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_set(root / "scenes", preset="scenes", count=4, seed=1)
        alone = _in_process(root)
        whole = _as_pipeline(root)
    return [Row("pipeline / its steps in one process, time, 4 clips", whole / alone, None, f"{whole:.1f} s / {alone:.1f} s")]


def _call(root: Path, name: str, values: dict[str, Any], inputs: list[str], form: str = "", params: dict[str, Any] | None = None) -> Path:
    step = import_module(f"components.{name}.step").STEP
    wanted = step.form(form).scalars
    given = {key: value for key, value in {**SCALARS, **values}.items() if key in wanted}
    out = root / "alone" / name
    execute(step, name, executor_input(step, out, {**given, "store": str(root / "store"), "params": params or {}, "rerun": "0"}, inputs))
    return out


def _in_process(root: Path) -> float:
    start = time.perf_counter()
    source = {"source": str(root / "scenes"), "source_digest": "-"}
    videos = _call(root, "dataset_import", source, [], "training", {"processes": 2}) / "videos"
    trajectories = _call(root, "ddim_inversion", {}, [f"videos={videos}"], params=INVERSION) / "trajectories"
    maps = _call(root, "attention_capture", {}, [f"trajectories={trajectories}"]) / "maps"
    heads = _call(root, "head_selection", {}, [f"maps={maps}"]) / "heads"
    prior = _call(root, "token_selection", {}, [f"heads={heads}"]) / "prior"
    _call(root, "prior_set", {}, [f"shards={prior}"], "collected")
    return time.perf_counter() - start


def _as_pipeline(root: Path) -> float:
    settings = {"source": root / "scenes", "vdm": SCALARS["vdm"], "shards": '["0/1"]'}
    settings |= {f"params_ddim_inversion.{name}": value for name, value in INVERSION.items()}
    command = [sys.executable, "-m", "components.orchestration.cli", "run", "motion_priors", "--out", str(root / "run")]
    command += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env={**os.environ, **QUIET}, check=True, capture_output=True)
    return time.perf_counter() - start
