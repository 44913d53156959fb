"""Tasks of a local run as processes: a fresh interpreter, or a fork of one that has imported what steps need.

Most of a small task's time is the import of torch, transformers and diffusers; on one machine once is enough, in the
fork server of `multiprocessing`. A fork is a process of its own all the same: arguments, environment, working folder,
output and exit code are those of a fresh interpreter. It is safe because the server computes nothing: no thread has
started and no device was touched.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import pkgutil
import runpy
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from types import ModuleType
from typing import Any

from components.core.errors import TryAgainError
from components.steps import STEPS

# one thread per task: sums over several threads differ in the last bit
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
_CONTEXT = multiprocessing.get_context("forkserver")
# multiprocessing reads the exit code of every ended process at each start, so two threads must not read at once
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Task:
    """A command `python -m MODULE ARGUMENT…`: its environment is complete, its output goes into `log`."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    folder: Path
    log: Path


def run_fresh(task: Task) -> int:
    """Run a task in an interpreter of its own and return its exit code (negative: the signal)."""
    command = [sys.executable, "-m", task.module, *task.arguments]
    with task.log.open("wb") as log:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        return subprocess.run(command, **streams, cwd=task.folder, env=task.environment, check=False).returncode


def run_forked(task: Task) -> int:
    """Run a task as a fork; the first one starts the server and waits for its imports.

    Raises:
        TryAgainError: The server ended meanwhile: killed, or by the Ctrl-C that this process is yet to hear of.
    """
    process = _CONTEXT.Process(target=_become, args=(task,))
    with _LOCK:
        _CONTEXT.set_forkserver_preload(["components.kubeflow.fork_server", *step_modules()])
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # a task has its own; the fork would import this one
        try:
            process.start()
        except (EOFError, ConnectionError) as error:
            remedy = "run again: what is stored is not computed twice; give the machine more memory if it ran out"
            raise TryAgainError("the server that forks tasks has ended", source=task.module, remedy=remedy) from error
        finally:
            sys.modules["__main__"] = main
    connection.wait([process.sentinel])
    with _LOCK:
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def step_modules() -> list[str]:
    """Return every module of the steps and of the model families: what steps import when they have work."""
    root = Path(__file__).parents[1]
    folders = (*STEPS, "models/video", "models/vlm")
    names = [(folder, item.name) for folder in folders for item in pkgutil.iter_modules([str(root / folder)])]
    return [f"components.{folder.replace('/', '.')}.{name}" for folder, name in names if name != "__main__"]


def _become(task: Task) -> None:
    """Run the module as `__main__`, as `python -m` does."""
    gc.freeze()  # what was imported stays shared with the server: a collection would write on every page
    os.environ.clear()
    os.environ.update(task.environment)
    os.chdir(task.folder)
    with task.log.open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = ["", *task.arguments]
    try:
        runpy.run_module(task.module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
