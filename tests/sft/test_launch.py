"""How a training's processes begin and end: none outlives the step, whatever ends it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from components.core.artifacts import TunedModel
from components.core.errors import TryAgainError
from components.kubeflow.tree import ROOT
from components.runtime.runner import execute, executor_input
from components.sft.launch import run_processes
from components.sft.state import ResumeStates
from components.sft.step import STEP
from components.store.entries import Store
from tests.runner import load_manifest
from tests.sft.conftest import FAST, QWEN

LIVES = "import os, sys, time; open(sys.argv[1] + os.environ['RANK'], 'w').write(str(os.getpid())); time.sleep(600)"


def gone(pids, within=10.0):
    until = time.monotonic() + within
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def started(stem, count):
    files = [Path(f"{stem}{rank}") for rank in range(count)]
    while not all(file.is_file() and file.read_text() for file in files):
        time.sleep(0.02)
    return [int(file.read_text()) for file in files]


def test_the_first_failure_ends_all(tmp_path):
    program = f"import os, sys; sys.exit(7) if os.environ['RANK'] == '1' else exec({LIVES!r})"
    start = time.monotonic()
    assert run_processes(2, ["-c", program, str(tmp_path / "pid")], tmp_path, 60.0) == 7
    assert time.monotonic() - start < 20
    assert gone([int((tmp_path / "pid0").read_text())])


def test_processes_know_each_other_and_keep_their_files_in_scratch(tmp_path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TMPDIR", "SFT_RENDEZVOUS")
    program = f"import os, json; saw = json.dumps([os.environ[name] for name in {names}]); "
    program += "open(os.environ['TMPDIR'] + '/saw' + os.environ['RANK'], 'w').write(saw)"
    assert run_processes(2, ["-c", program], tmp_path, 5.0) == 0
    for rank in range(2):
        saw = json.loads((tmp_path / f"saw{rank}").read_text())
        assert saw == [str(rank), str(rank), "2", str(tmp_path), str(tmp_path / "rendezvous")]


def test_sigterm_that_nobody_heeds_ends_after_the_grace(tmp_path):
    program = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); exec({LIVES!r})"
    stem = tmp_path / "pid"

    def tell():
        started(stem, 2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell).start()
    with pytest.raises(TryAgainError, match="not ended within 1 s"):
        run_processes(2, ["-c", program, str(stem)], tmp_path, 1.0)
    assert gone(started(stem, 2))


def test_sigterm_to_a_training_that_is_done_loses_nothing(tmp_path):
    """Its processes were past their last update: they end with 0, and so does the launch."""
    program = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); "
    program += f"exec({LIVES!r})"
    stem = tmp_path / "pid"

    def tell():
        started(stem, 2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell).start()
    assert run_processes(2, ["-c", program, str(stem)], tmp_path, 10.0) == 0


def test_the_death_of_the_step_ends_its_processes(tmp_path):
    """By SIGKILL, of which a process hears nothing."""
    inner = f"from components.runtime.launch import die_with_parent; die_with_parent(); exec({LIVES!r})"
    outer = "import sys; from pathlib import Path; from components.sft.launch import run_processes; "
    outer += "run_processes(2, ['-c', sys.argv[1], sys.argv[2]], Path(sys.argv[3]), 5.0)"
    stem = tmp_path / "pid"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    step = subprocess.Popen([sys.executable, "-c", outer, inner, str(stem), str(tmp_path)], env=environment)
    pids = started(stem, 2)
    step.kill()
    step.wait()
    assert gone(pids)


# The step itself ------------------------------------------------------------------------------------------------------


def request(world, out, rerun):
    """What KFP's launcher hands over to the step."""
    folder, found = world
    params = {**FAST, "max_steps": 8, "eval_every": 1, "processes": 2, "stop_grace": 120.0}
    shared = {"vlm": QWEN, "align_weight": 1.0, "seed": 1}
    shared |= {"store": (folder / "store").as_uri(), "store_patience": 1.0}
    return executor_input(STEP, out, {"params": params, "rerun": rerun, **shared}, {"maps": found[QWEN]})


class Group:
    """The step with two training processes, in a process group of its own."""

    def __init__(self, given):
        command = [sys.executable, "-m", "components", "sft", "sft", json.dumps(given)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
        self.said = ""

    def read_until(self, words):
        for line in self.process.stdout:
            self.said += line
            if words in line:
                return
        raise AssertionError(self.said)

    def end(self):
        self.said += self.process.communicate(timeout=300)[0]
        return self.process.returncode

    def alive(self):
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


def test_after_sigterm_no_process_lives_and_a_second_run_goes_on(world, tmp_path, monkeypatch):
    """A forced one: its retry has the same nonce, and so the same states."""
    first = Group(request(world, tmp_path / "first", "force-1"))
    first.read_until("step 1:")
    first.process.terminate()
    assert first.end() == 75, first.said
    assert not first.alive()
    assert "which is saved" in first.said
    again = Group(request(world, tmp_path / "again", "force-1"))
    assert again.end() == 0, again.said
    assert "resuming after step" in again.said
    store = Store((world[0] / "store").as_uri())
    model = load_manifest(tmp_path / "again" / "model", TunedModel, store.uri)
    rows = [json.loads(line) for line in store.read(model.log).splitlines()]
    assert [row["step"] for row in rows] == list(range(9))
    assert list(store.backend.walk(f"sft/{model.key}/resume")) == []
    assert ResumeStates(store.backend, model.key, "other").complete() == []
    monkeypatch.setattr("components.sft.step._launch", lambda job: pytest.fail("trained again"))
    execute(STEP, "sft", request(world, tmp_path / "third", "force-1"))
    assert load_manifest(tmp_path / "third" / "model", TunedModel, store.uri) == model
