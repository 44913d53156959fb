"""Forked tasks against the same commands in fresh interpreters, and how a run's journal notes their ends."""

import importlib
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver

import pytest

from components.core.errors import TryAgainError
from components.kubeflow import local, processes
from components.kubeflow.processes import Task, run_forked, run_fresh, step_modules
from components.kubeflow.tree import ROOT

ECHO = "tests.kubeflow.echo"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tasks are forked on Linux alone")


@pytest.fixture(scope="module")
def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def empty_server(monkeypatch):
    """A server without the steps' modules."""
    monkeypatch.setattr(processes, "step_modules", list)


@pytest.mark.parametrize("how", ["return", "0", "3", "75", "text", "raise", "killed"])
def test_a_task_ends_as_in_a_fresh_interpreter(environment, tmp_path, how):
    arguments, environment = [how, '{"a": "ä\n"}', ""], {**environment, "GREETING": "grüß"}
    logs, codes = [], []
    for way in (run_fresh, run_forked):
        task = Task(ECHO, arguments, environment, tmp_path, tmp_path / way.__name__)
        codes.append(way(task))
        logs.append(sorted(line for line in task.log.read_text().splitlines() if not _place(line)))
    assert codes[0] == codes[1]
    assert logs[0] == logs[1]
    assert ("the last word" in logs[1]) == (how != "killed")


def _place(line):
    """Lines of a traceback: the frames above the module differ."""
    return line.startswith(("  ", "Traceback", "Process "))


def test_tasks_run_side_by_side_and_leave_nothing_to_the_next(environment, tmp_path):
    def run(number):
        log = tmp_path / str(number)
        return run_forked(Task(ECHO, [str(number)], {**environment, "NUMBER": str(number)}, tmp_path, log))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(24))) == list(range(24))
    logs = [(tmp_path / str(number)).read_text().splitlines() for number in range(24)]
    seen = [json.loads(next(line for line in log if line.startswith("{"))) for log in logs]  # streams may be buffered
    assert [item["environment"]["NUMBER"] for item in seen] == [str(number) for number in range(24)]
    assert {item["threads"] for item in seen} == {1}


def test_the_first_task_of_a_run_is_fresh_and_the_others_are_forked(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/where/packages/lie")
    ways = []
    for way in (run_fresh, run_forked):
        monkeypatch.setattr(local, way.__name__, lambda task, way=way: ways.append(way) or way(task))
    engine = local.ProcessEngine()
    command = ["python", "-m", ECHO, "4", "{}"]
    names = ("first", "second", "third")
    assert [engine.execute("local@sha256:0", command, {}, {}, tmp_path / name) for name in names] == [4, 4, 4]
    assert ways == [run_fresh, run_forked, run_forked]
    first, *others = ((tmp_path / name).read_text() for name in names)
    assert others == [first, first]
    assert '"KFP_LOCAL_IMAGE": "local@sha256:0"' in first
    assert f'"PYTHONPATH": "{ROOT}:/where/packages/lie"' in first


def test_a_killed_task_has_failed(tmp_path):
    """As in a shell: 128 and the signal's number."""
    journal, engine = local.Journal(tmp_path), local.ProcessEngine()
    for how in ("0", "killed"):
        command = ["python", "-m", ECHO, how, "{}"]
        journal.execute("sft", lambda log, command=command: engine.execute("", command, {}, {}, log))
    ended = [(run.task, run.log.name, run.code) for run in journal.runs]
    assert ended == [("sft", "sft-0.log", 0), ("sft", "sft-1.log", 128 + signal.SIGKILL)]
    assert journal.failed is journal.runs[1]


def test_a_server_that_ends_while_it_forks_is_said_and_the_next_task_has_another(environment, tmp_path, monkeypatch):
    task = Task(ECHO, ["0", "{}"], environment, tmp_path, tmp_path / "log")
    assert run_forked(task) == 0
    server, read = forkserver._forkserver._forkserver_pid, forkserver.read_signed
    os.kill(server, signal.SIGSTOP)
    monkeypatch.setattr(forkserver, "read_signed", lambda pipe: [os.kill(server, signal.SIGKILL), read(pipe)][1])
    with pytest.raises(TryAgainError, match="the server that forks tasks has ended"):
        run_forked(task)
    monkeypatch.setattr(forkserver, "read_signed", read)
    os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
    assert run_forked(task) == 0


def test_what_the_server_imports_exists():
    names = step_modules()
    assert {"components.sft.loop", "components.report.page", "components.models.video.cogvideox"} <= set(names)
    assert all(importlib.util.find_spec(name) is not None for name in names)
