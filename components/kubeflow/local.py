"""A pipeline on this machine under KFP's own orchestrator and cache; each container is a process, or runs in Docker.

kfp.local's Docker runner talks to the engine through `docker.from_env`; `_client` answers those calls, so no private
API of kfp is touched. One pipeline run per process: kfp.local wraps `print` and never unwraps it.
"""

from __future__ import annotations

import io
import itertools
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from components.core.errors import ParameterError
from components.kubeflow import images
from components.kubeflow.processes import ENVIRONMENT, Task, run_forked, run_fresh
from components.kubeflow.tree import ROOT, tree_digest
from components.store.connection import for_elsewhere

if TYPE_CHECKING:
    import docker


@dataclass
class TaskRun:
    """One executed task: its name, log, seconds and exit code."""

    task: str
    log: Path
    seconds: float = 0.0
    code: int = -1


@dataclass
class Journal:
    """The executed tasks in the order they started (cached ones are absent), and a succeeded pipeline's outputs.

    A cached task's outputs lie where an earlier run put them.
    """

    folder: Path
    runs: list[TaskRun] = field(default_factory=list)
    outputs: dict[str, Path] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def execute(self, task: str, execute: Callable[[Path], int]) -> int:
        """Execute a task with a log of its own, note how it ended, and return its exit code."""
        with self._lock:
            count = sum(run.task == task for run in self.runs)
            run = TaskRun(task, self.folder / f"{task}-{count}.log")
            self.runs.append(run)
        sys.stderr.write(f"  ▸ {task}\n")
        started = time.monotonic()
        code = execute(run.log)
        run.seconds = time.monotonic() - started
        run.code = code if code >= 0 else 128 - code  # killed by a signal: as in a shell
        sys.stderr.write(f"  {'✓' if code == 0 else '✗'} {task} {run.seconds:.1f} s\n")
        return run.code

    @property
    def failed(self) -> TaskRun | None:
        """The first task that failed."""
        return next((run for run in self.runs if run.code != 0), None)


class ProcessEngine:
    """A container is a process of this Python with the same arguments: it runs the commands, not the images.

    The first task of a run (`plan`) starts a fresh interpreter; where others follow, there is work, and they are forked
    from one that has imported what they need. Not on macOS, whose frameworks do not survive a fork.
    """

    def __init__(self) -> None:
        self.images = SimpleNamespace(list=list, pull=lambda image: None)  # no image is needed, and none is missing
        self._tasks = itertools.count()

    def execute(
        self, image: str, command: Sequence[str], volumes: dict[str, Any], environment: dict[str, str], log: Path
    ) -> int:
        """Execute the command, its output into `log`, and return its exit code (negative: the signal)."""
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # packages may lie elsewhere
        environment = {**os.environ, **environment, "PYTHONPATH": path, "KFP_LOCAL_IMAGE": image}
        _, _, module, *arguments = command  # python -m MODULE
        execute = run_forked if next(self._tasks) and sys.platform == "linux" else run_fresh
        return execute(Task(module, arguments, environment, ROOT, log))


class DockerEngine:
    """Each task in its image, as on a cluster: non-root, read-only root, no capabilities."""

    def __init__(self, client: docker.DockerClient, network: str) -> None:
        self.client, self.network, self.images = client, network, client.images

    def execute(
        self, image: str, command: Sequence[str], volumes: dict[str, Any], environment: dict[str, str], log: Path
    ) -> int:
        """Execute as the image's own user on a read-only root; only /tmp and KFP's artifact folder can be written."""
        passed = for_elsewhere() | {name: os.environ[name] for name in ("LOG_LEVEL",) if name in os.environ}
        given = {"volumes": volumes, "environment": {**environment, **passed}, "network_mode": self.network}
        confined = {"tmpfs": {"/tmp": "mode=1777"}, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
        container = self.client.containers.run(image, list(command), detach=True, read_only=True, **given, **confined)
        with log.open("wb") as file:
            for part in container.logs(stream=True):
                file.write(part)
        code = int(container.wait()["StatusCode"])
        container.remove()  # only now: with `auto_remove` an exit code may be lost
        return code


Engine = ProcessEngine | DockerEngine


@contextmanager
def open_engine(kind: str, network: str = "host") -> Iterator[Engine]:
    """Open an engine: `process`, or `docker` with the one that `DOCKER_HOST` names; another is a ParameterError."""
    if kind == "process":
        yield ProcessEngine()
    elif kind == "docker":
        with images.engine() as client:
            yield DockerEngine(client, network)
    else:
        raise ParameterError(f"unknown engine {kind!r}", source="--engine", remedy="process or docker")


def _client(engine: Engine, journal: Journal) -> Any:
    """Return what stands for `docker.DockerClient` in kfp.local: it hands containers to an engine, as the journal's."""

    def run(
        image: str, command: Sequence[str], volumes: Any, environment: dict[str, str] | None = None, **_: Any
    ) -> Any:
        execute = partial(engine.execute, image, command, volumes, {**ENVIRONMENT, **(environment or {})})
        # kfp.local asks for the logs first, which the task writes into its file itself, and then waits for the end
        ended = lambda: {"StatusCode": journal.execute(command[4], execute)}
        return SimpleNamespace(logs=lambda stream: iter(()), wait=ended)

    containers = SimpleNamespace(run=run)
    return SimpleNamespace(images=engine.images, containers=containers, info=dict, close=lambda: None)


def run_compiled(package: Path, arguments: dict[str, Any], folder: Path, engine: Engine) -> Journal:
    """Run a compiled pipeline under kfp.local; return what was executed, also when a task failed."""
    from kfp import components, local

    journal, artifacts = Journal(folder / "logs"), folder / "artifacts"
    journal.folder.mkdir(parents=True, exist_ok=True)
    artifacts.mkdir(exist_ok=True)
    artifacts.chmod(0o777)  # a container writes its outputs here as the image's own user
    places = {"pipeline_root": str(artifacts), "cache_root": str(folder / "cache")}
    local.init(runner=local.DockerRunner(), enable_caching=True, raise_on_error=False, **places)
    pipeline = components.load_component_from_file(str(package))
    # display names, resources and the like have no meaning here: kfp.local warns of it for every task
    warnings.filterwarnings("ignore", category=UserWarning, module=r"kfp\.local")
    with mock.patch("docker.from_env", return_value=_client(engine, journal)), redirect_stdout(io.StringIO()):
        made = pipeline(**arguments)
    journal.outputs = {name: Path(made.outputs[name].uri) for name in sorted(made.outputs)}  # KFP's own order changes
    return journal


def local_image() -> str:
    """Return the image string of local runs: it changes with the code, so KFP's cache sees an edit."""
    return f"local@sha256:{tree_digest(ROOT)}"
