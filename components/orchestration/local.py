"""A pipeline on this machine: KFP's own orchestrator and cache; each container's command runs as a process, or in a real Docker engine.

kfp.local's Docker runner talks to the engine through `docker.from_env`; `ProcessEngine` answers those calls with processes, so no private
API of kfp is touched. It runs the commands, not the images. One pipeline run per process: kfp.local wraps `print` and never unwraps it.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from components.core.tree import tree_digest

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class TaskRun:
    """One executed task: its name, log, seconds and exit code."""

    task: str
    log: Path
    started: float
    seconds: float = 0.0
    code: int = -1


@dataclass
class Journal:
    """The tasks that ran, in the order they started; the cached ones are absent."""

    folder: Path
    runs: list[TaskRun] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, task: str) -> TaskRun:
        """Open a task's log."""
        with self._lock:
            count = sum(run.task == task for run in self.runs)
            run = TaskRun(task, self.folder / f"{task}-{count}.log", time.monotonic())
            self.runs.append(run)
        sys.stderr.write(f"  ▸ {task}\n")
        return run

    def end(self, run: TaskRun, code: int) -> None:
        """Note how a task ended."""
        run.seconds, run.code = time.monotonic() - run.started, code
        sys.stderr.write(f"  {'✓' if code == 0 else '✗'} {run.task} {run.seconds:.1f} s\n")

    @property
    def failed(self) -> TaskRun | None:
        """The first task that failed."""
        return next((run for run in self.runs if run.code > 0), None)


class _Container:
    """The part of docker's container that kfp.local uses."""

    def __init__(self, process: subprocess.Popen[bytes], run: TaskRun, journal: Journal) -> None:
        self.process, self.run, self.journal = process, run, journal

    def logs(self, stream: bool = True) -> Iterator[bytes]:
        """Nothing: the process writes into its log file itself."""
        self.process.wait()
        return iter(())

    def wait(self) -> dict[str, int]:
        """The exit code, as docker reports it."""
        code = self.process.wait()
        self.journal.end(self.run, code)
        return {"StatusCode": code}


class ProcessEngine:
    """Stands in for `docker.DockerClient`: a container is a process of this Python with the same arguments."""

    def __init__(self, journal: Journal, environment: dict[str, str]) -> None:
        self.journal, self.environment = journal, environment
        self.images = self.containers = self

    def info(self) -> dict[str, Any]:
        """The engine is there."""
        return {}

    def close(self) -> None:
        """Nothing is open."""

    def list(self) -> list[Any]:
        """No images."""
        return []

    def pull(self, image: str) -> None:
        """Nothing to pull."""

    def run(self, image: str, command: Sequence[str], environment: dict[str, str] | None = None, **_: Any) -> _Container:
        """Start the command."""
        run = self.journal.start(command[3])
        with run.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *command[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, **self.environment, **(environment or {}), "KFP_LOCAL_IMAGE": image},
            )
        return _Container(process, run, self.journal)


@contextmanager
def process_engine(journal: Journal) -> Iterator[None]:
    """Let kfp.local find processes where it looks for Docker."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with mock.patch("docker.from_env", return_value=ProcessEngine(journal, environment)):
        yield


def run_compiled(package: Path, arguments: dict[str, Any], folder: Path, engine: str = "process") -> Journal:
    """Run a compiled pipeline under kfp.local; returns what was executed, also when a task failed."""
    from kfp import components, local

    journal = Journal(folder / "logs")
    journal.folder.mkdir(parents=True, exist_ok=True)
    local.init(
        runner=local.DockerRunner(),
        pipeline_root=str(folder / "artifacts"),
        enable_caching=True,
        cache_root=str(folder / "cache"),
        raise_on_error=False,
    )
    pipeline = components.load_component_from_file(str(package))
    # display names, resources and the like have no meaning here, and kfp.local says so for every task
    warnings.filterwarnings("ignore", category=UserWarning, module=r"kfp\.local")
    with process_engine(journal) if engine == "process" else _nothing(), redirect_stdout(io.StringIO()):
        pipeline(**arguments)
    return journal


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def local_image() -> str:
    """The image string of local runs: it changes with the code, so KFP's cache sees an edit."""
    return f"local@sha256:{tree_digest(ROOT)}"
