"""`python -m components.kubeflow.warm DESCRIPTOR [MODULE…]`: an interpreter that has imported modules and becomes each task by fork.

Most of a small task's time is the import of torch, transformers and diffusers; on one machine once is enough. A task is
a process of its
own all the same: arguments, environment, working folder, output and exit code are those of a fresh interpreter. The
fork is safe because
nothing is computed here: no thread has started and no device was touched.

DESCRIPTOR is the inherited number of a listening Unix socket. A client sends one JSON line, `Task`'s fields, and gets
the exit code (negative: the signal) when the task has ended. The server ends with its parent.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# what the steps import when they have work, models' own modules included
MODULES = (
    "components.dataset_import.step",
    "components.ddim_inversion.pictures",
    "components.attention_capture.sample",
    "components.attention_capture.pictures",
    "components.head_selection.scores",
    "components.token_selection.motion_score",
    "components.prior_set.step",
    "components.vlm_attention.sample",
    "components.sft.loop",
    "components.benchmark_eval.page",
    "components.report.page",
)
_ENDED = "{}: the interpreter that tasks are forked from has ended; what it said last stands above"


@dataclass(frozen=True)
class Task:
    """A command `python -m MODULE ARGUMENT…`: its environment is complete, its output goes into `log`."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    log: str


# The client -----------------------------------------------------------------------------------------------------------


class WarmInterpreter:
    """A started server; imports run while the first tasks already wait in its queue."""

    def __init__(self, environment: dict[str, str], folder: Path, modules: Sequence[str] = MODULES) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="motion-enhancer-")
        self._address = str(Path(self._home.name) / "socket")
        # torch then asks the driver's library for devices, not CUDA, which would be of no use after a fork
        environment = {**environment, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self._address)
            listening.listen(1024)
            self._server = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listening.fileno()), *modules],
                pass_fds=[listening.fileno()],
                stdin=subprocess.PIPE,  # its end tells the server that its parent is gone
                cwd=folder,
                env=environment,
            )

    def start(self, task: Task) -> WarmTask:
        """Start a task.

        Raises:
            RuntimeError: the server has ended.
        """
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(self._address)
            connection.sendall(json.dumps(asdict(task)).encode() + b"\n")
        except ConnectionError as error:
            raise RuntimeError(_ENDED.format(task.module)) from error
        return WarmTask(connection, task)

    def close(self) -> None:
        """End the server; running tasks go on."""
        self._server.kill()
        self._server.communicate()
        self._home.cleanup()


class WarmTask:
    """A running task."""

    def __init__(self, connection: socket.socket, task: Task) -> None:
        self._connection, self._task = connection, task

    def finish(self) -> int:
        """Its exit code.

        Raises:
            RuntimeError: the server ended before the task did.
        """
        try:
            with self._connection, self._connection.makefile() as answer:
                code = answer.read()
        except ConnectionError as error:
            raise RuntimeError(_ENDED.format(self._task.module)) from error
        if not code:
            raise RuntimeError(_ENDED.format(self._task.module))
        return int(code)


# The server -----------------------------------------------------------------------------------------------------------


class _Handler(socketserver.StreamRequestHandler):
    """In a process of its own: forks the task and tells its end."""

    def handle(self) -> None:
        """Read a task, run it, answer."""
        task = Task(**json.loads(self.rfile.readline()))
        pid = os.fork()
        if pid == 0:
            os._exit(_become(task))
        _, status = os.waitpid(pid, 0)
        self.wfile.write(str(os.waitstatus_to_exitcode(status)).encode())


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """On a socket that is bound and listening already."""

    max_children = 1024
    block_on_close = False

    def __init__(self, descriptor: int) -> None:
        super().__init__("", _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=descriptor)

    def service_actions(self) -> None:
        """Between two requests: ended handlers are waited for, and a parent that is gone takes the server along."""
        super().service_actions()
        if select.select([sys.stdin], [], [], 0)[0]:
            raise SystemExit(0)


def _become(task: Task) -> int:
    """Run the module as `__main__`, as `python -m` does; returns the exit code."""
    os.environ.clear()
    os.environ.update(task.environment)
    os.chdir(task.folder)
    with open(task.log, "wb") as log, open(os.devnull, "rb") as nothing:
        for descriptor, file in ((0, nothing), (1, log), (2, log)):
            os.dup2(file.fileno(), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["", *task.arguments]
    code = 0
    try:
        runpy.run_module(task.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def main(descriptor: int, modules: Sequence[str]) -> None:
    """Import, then serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent and the tasks
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # the children share what was imported; a collection would write on every page
    with _Server(descriptor) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
