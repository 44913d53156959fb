"""Forked tasks against the same commands in fresh interpreters; what happens when either side dies."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.kubeflow.local import ProcessEngine
from components.kubeflow.warm import Task, WarmInterpreter

ROOT = Path(__file__).resolve().parents[2]
ECHO = "tests.kubeflow.echo"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tasks are forked on Linux alone")


@pytest.fixture(scope="module")
def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def warm(environment):
    started = WarmInterpreter(environment, ROOT, [])
    yield started
    started.close()


@pytest.mark.parametrize("how", ["return", "0", "3", "75", "text", "raise", "killed"])
def test_a_task_ends_as_in_a_fresh_interpreter(warm, environment, tmp_path, how):
    arguments, environment = [how, '{"a": "ä\n"}', ""], {**environment, "GREETING": "grüß"}
    with (tmp_path / "fresh").open("wb") as log:
        fresh = subprocess.run(
            [sys.executable, "-m", ECHO, *arguments],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=tmp_path,
            env=environment,
            check=False,
        )
    code = warm.start(Task(ECHO, arguments, environment, str(tmp_path), str(tmp_path / "forked"))).finish()
    assert code == fresh.returncode
    said, expected = ((tmp_path / name).read_text().splitlines() for name in ("forked", "fresh"))
    assert sorted(line for line in said if not _place(line)) == sorted(line for line in expected if not _place(line))
    assert ("the last word" in said) == (how != "killed")


def _place(line):
    """Lines of a traceback: which frames lie above the module is another matter."""
    return line.startswith(("  ", "Traceback"))


def test_tasks_run_side_by_side_and_leave_nothing_to_the_next(warm, environment, tmp_path):
    def run(number):
        task = Task(
            ECHO, [str(number)], {**environment, "NUMBER": str(number)}, str(tmp_path), str(tmp_path / str(number))
        )
        return warm.start(task).finish()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(24))) == list(range(24))
    assert all(f'"NUMBER": "{number}"' in (tmp_path / str(number)).read_text() for number in range(24))


def test_a_run_of_one_task_starts_nothing_warm(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/where/packages/lie")
    engine = ProcessEngine()
    command = ["python", "-m", ECHO, "4", "{}"]
    assert engine.start("local@sha256:0", command, {}, {}, tmp_path / "first").finish() == 4
    assert engine._warm is None
    assert engine.start("local@sha256:0", command, {}, {}, tmp_path / "second").finish() == 4
    assert engine._warm is not None
    engine.close()
    first, second = ((tmp_path / name).read_text() for name in ("first", "second"))
    assert first == second
    assert '"KFP_LOCAL_IMAGE": "local@sha256:0"' in first
    assert f'"PYTHONPATH": "{ROOT}:/where/packages/lie"' in first


def test_a_server_that_died_is_an_error_and_no_wait(environment, tmp_path):
    started = WarmInterpreter(environment, ROOT, ["time"])
    started._server.send_signal(signal.SIGSTOP)  # it answers nothing before it ends
    running = started.start(Task(ECHO, ["0"], environment, str(ROOT), str(tmp_path / "log")))
    started._server.send_signal(signal.SIGKILL)
    started._server.wait()
    with pytest.raises(RuntimeError, match="has ended"):
        running.finish()
    with pytest.raises(RuntimeError, match="has ended"):
        started.start(Task(ECHO, ["0"], environment, str(ROOT), str(tmp_path / "log")))
    started.close()


def test_the_server_ends_with_its_parent(environment):
    """A parent that is killed cannot say goodbye."""
    program = (
        "import os, signal, time\nfrom pathlib import Path\nfrom components.kubeflow.warm import WarmInterpreter\n"
        f"started = WarmInterpreter(dict(os.environ), Path({str(ROOT)!r}), [])\nprint(started._server.pid, flush=True)\ntime.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    server = int(parent.stdout.readline())
    assert _alive(server)
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 120
    while _alive(server) and time.monotonic() < until:
        time.sleep(0.2)
    assert not _alive(server)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
