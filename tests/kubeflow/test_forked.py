"""Forked tasks against the same commands in fresh interpreters."""

import importlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.kubeflow.forked import ForkedTask, Task, step_modules
from components.kubeflow.local import FreshTask, ProcessEngine
from components.kubeflow.tree import ROOT

ECHO = "tests.kubeflow.echo"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tasks are forked on Linux alone")


@pytest.fixture(scope="module")
def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def few_modules(monkeypatch):
    monkeypatch.setattr("components.kubeflow.forked.step_modules", list)


@pytest.mark.parametrize("how", ["return", "0", "3", "75", "text", "raise", "killed"])
def test_a_task_ends_as_in_a_fresh_interpreter(environment, tmp_path, how):
    arguments, environment = [how, '{"a": "ä\n"}', ""], {**environment, "GREETING": "grüß"}
    ways, logs, codes = (FreshTask, ForkedTask), [], []
    for way in ways:
        task = Task(ECHO, arguments, environment, tmp_path, tmp_path / way.__name__)
        codes.append(way(task).finish())
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
        return ForkedTask(Task(ECHO, [str(number)], {**environment, "NUMBER": str(number)}, tmp_path, log)).finish()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(24))) == list(range(24))
    seen = [json.loads((tmp_path / str(number)).read_text().splitlines()[0]) for number in range(24)]
    assert [item["environment"]["NUMBER"] for item in seen] == [str(number) for number in range(24)]
    assert {item["threads"] for item in seen} == {1}


def test_the_first_task_of_a_run_is_fresh_and_the_others_are_forked(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/where/packages/lie")
    engine = ProcessEngine()
    command = ["python", "-m", ECHO, "4", "{}"]
    started = [engine.start("local@sha256:0", command, {}, {}, tmp_path / name) for name in ("first", "second")]
    assert [type(item) for item in started] == [FreshTask, ForkedTask]
    assert [item.finish() for item in started] == [4, 4]
    first, second = ((tmp_path / name).read_text() for name in ("first", "second"))
    assert first == second
    assert '"KFP_LOCAL_IMAGE": "local@sha256:0"' in first
    assert f'"PYTHONPATH": "{ROOT}:/where/packages/lie"' in first


def test_what_the_server_imports_exists():
    names = step_modules()
    assert {"components.sft.loop", "components.report.page", "components.models.video.cogvideox"} <= set(names)
    assert all(importlib.util.find_spec(name) is not None for name in names)
