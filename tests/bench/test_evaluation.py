"""A tenth of the FAVOR-like evaluation, its task in processes of their own: killed and resumed, in two processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import favor
from components.benchmark_eval.step import STEP
from components.kubeflow.tree import ROOT
from components.runtime import side_by_side

VIDEOS = favor.VIDEOS // 10


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("favor")
    return folder, favor.make(folder, VIDEOS)


@pytest.fixture
def own(made, tmp_path):
    """A folder with a store of its own, and the artifact."""
    shutil.copytree(made[0] / "store", tmp_path / "store")
    return tmp_path, made[1]


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """What the task leaves: manifest and entries."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(made[0] / "store", folder / "store")
    done = start(folder, made[1], stdout=subprocess.PIPE)
    peak = json.loads(done.communicate()[0].splitlines()[-1])["peak_bytes"]
    assert done.returncode == 0
    assert peak < 500e6
    return left(folder)


def start(folder, artifact, **options):
    command = [sys.executable, "-m", "bench.favor", *favor.request(folder, artifact, folder / "out")]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)


def left(folder):
    entries = {file.parent.name: file.read_bytes() for file in (folder / "store" / STEP.name).glob("*/entry.json")}
    return (folder / "out" / "result" / "manifest.json").read_bytes(), entries


def test_killed_and_resumed_leaves_the_same_files(own, whole):
    process, work = start(*own), own[0] / "store" / STEP.name
    until = time.monotonic() + 120
    while len(os.listdir(work) if work.is_dir() else []) < 100:
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = {file.parent: file.stat().st_mtime_ns for file in work.glob("*/entry.json")}
    assert 90 < len(done) < len(whole[1])
    assert start(*own).wait() == 0
    assert left(own[0]) == whole
    assert all((folder / "entry.json").stat().st_mtime_ns == when for folder, when in done.items())  # not done again


def test_two_processes_leave_the_same_files(own, whole, monkeypatch):
    """The task deals its clips out to two processes, which are this module's in the container's place."""
    monkeypatch.setenv("UNIT_PROCESSES", "2")
    run_processes, parts = side_by_side.run_processes, []

    def started(arguments, environments, *rest):
        for one in environments:
            parts.append(json.loads(Path(one["UNIT_PART"]).read_text())["keys"])
        return run_processes(["-m", "bench.favor", *arguments[2:]], environments, *rest)

    monkeypatch.setattr(side_by_side, "run_processes", started)
    assert favor.main(favor.request(own[0], own[1], own[0] / "out")) == 0
    assert left(own[0]) == whole
    clips = [{json.loads(whole[1][key])["reads"]["video"] for key in keys} for keys in parts]
    assert not clips[0] & clips[1]
    assert {len(one) for one in clips} == {VIDEOS // 2, VIDEOS - VIDEOS // 2}
