"""A task in several processes against the same task in one: entries, manifest and counts; failures, kills, SIGTERM.

The task is vlm_attention on tiny models: its two pieces of work per sample begin one after the other.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from components.core.artifacts import VlmMaps
from components.core.errors import DataError, ParameterError, TryAgainError
from components.kubeflow.tree import ROOT
from components.models.registry import ensure_tiny
from components.runtime import side_by_side
from components.runtime.launch import leave_error
from components.runtime.runner import executor_input
from components.store.entries import Store, WorkFolder
from components.vlm_attention.step import MAPS, STEP
from tests.runner import metrics, published, put_manifest, run_step
from tests.vlm_attention import made

MODEL = "tiny-qwen2.5-vl"
COUNTED = ("units", "failed", "mapped")
PARAMS = {"viewing": made.VIEWING, "maps_for": "all", "pictures": 2}


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch):
    """As in this process: with two threads sums differ in the last bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run_task(priors, folder, store, **params):
    shared, inputs = {"vlm": MODEL, "shard": "0/1"}, {"priors": priors}
    return run_step(STEP, folder, store, {**PARAMS, **params}, shared, inputs, form="frozen")


@pytest.fixture(scope="module")
def alone(made_priors, tmp_path_factory):
    """The store and the outputs of the task in one process."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copytree(made_priors[0] / "store", folder / "store")
    return folder / "store", run_task(made_priors[2], folder, folder / "store")


@pytest.fixture
def task(made_priors, tmp_path, monkeypatch):
    """Function that runs the task on a store in a number of processes."""

    def run(processes, store, **params):
        monkeypatch.setenv("UNIT_PROCESSES", str(processes))
        return store, run_task(made_priors[2], tmp_path, store, **params)

    return run


def without_maps(store, target, count=6):
    """A copy of a store that lacks the last pieces of work of `count` samples."""
    shutil.copytree(store, target)
    shutil.rmtree(target / "indexes")
    for entry in sorted((target / "vlm_attention_maps").glob("*/entry.json"))[:count]:
        shutil.rmtree(entry.parent)
    return target


def written(store):
    """Every file of the step's work, with its bytes."""
    files = [file for part in ("vlm_attention", "vlm_attention_maps") for file in (store / part).rglob("*.*")]
    return {str(file.relative_to(store)): file.read_bytes() for file in files}


def same(one, other):
    """Two (store, outputs): entries, manifest and page, to the byte, and what was counted but for the memory."""
    assert written(one[0]).keys() == written(other[0]).keys()
    assert written(one[0]) == written(other[0])
    assert (one[1]["maps"] / "manifest.json").read_bytes() == (other[1]["maps"] / "manifest.json").read_bytes()
    assert one[1]["preview"].read_bytes() == other[1]["preview"].read_bytes()
    assert [metrics(one[1])[name] for name in COUNTED] == [metrics(other[1])[name] for name in COUNTED]


def test_two_processes_leave_what_one_does(alone, task, made_priors, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    finish, here = WorkFolder.finish, []
    monkeypatch.setattr(WorkFolder, "finish", lambda self, *given: here.append(self.step) or finish(self, *given))
    shutil.copytree(made_priors[0] / "store", tmp_path / "store")
    found = task(2, tmp_path / "store")
    same(alone, found)
    assert metrics(found[1])["share_remembered"] == metrics(alone[1])["share_remembered"] == 0.0
    assert all(0 < metrics(outputs)["device_waited"] < 1 for _, outputs in (alone, found))  # as its processes left it
    assert caplog.text.count("6 units in 2 processes") == 2  # both pieces of work
    assert not {STEP.name, MAPS} & set(here)  # nothing was computed once more


def test_three_processes_and_a_unit_that_fails(alone, task, made_priors, tmp_path, caplog, capfd):
    """The task itself reports it, once; what is remembered is dealt to nobody."""
    caplog.set_level("INFO")
    lost = made_priors[1][2]
    both = []
    for processes in (1, 3):
        store = without_maps(alone[0], tmp_path / f"lost-{processes}")
        (store / lost.video.file.path).unlink()
        both.append(task(processes, store, max_failed=0.5))
        assert sum("left out" in item.message for item in caplog.records) == len(both)
    same(*both)
    assert "6 units in 3 processes" in caplog.text
    log = capfd.readouterr().err
    assert all(f"[{rank}/3] INFO" in log for rank in (1, 2, 3))
    (left,) = published(both[1][1], "maps", VlmMaps).left_out
    assert left.unit == lost.called
    assert lost.video.called in left.unit
    assert "is missing" in left.reason
    with pytest.raises(DataError, match="1 of 6 samples failed"):
        task(3, both[1][0])
    assert metrics(task(3, both[1][0], max_failed=0.5)[1])["share_remembered"] == round(11 / 12, 4)
    assert caplog.text.count("in 3 processes") == 1  # a single unit needs no second one


def test_the_tuned_model_is_laid_out_once(alone, made_priors, tmp_path, monkeypatch):
    store = tmp_path / "store"
    shutil.copytree(alone[0], store)
    before = published(alone[1], "maps", VlmMaps)
    model = made.tuned_model(Store(str(store)), ensure_tiny(MODEL), before.provenance, before.lines)
    inputs = {"priors": made_priors[2], "model": put_manifest(tmp_path / "tuned", model)}

    def run(processes, store):
        monkeypatch.setenv("UNIT_PROCESSES", str(processes))
        return store, run_step(STEP, tmp_path, store, PARAMS, {}, inputs, form="tuned", task="tuned_attention")

    one = run(1, store)
    again = without_maps(store, tmp_path / "again", 99)
    shutil.copytree(alone[0] / "vlm_attention_maps", again / "vlm_attention_maps", dirs_exist_ok=True)
    same(one, run(2, again))


# Ends -----------------------------------------------------------------------------------------------------------------


def children(parent, count=1):
    """Wait for processes that compute a part for `parent`; return their ids by rank."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) != parent:
                    continue
                names = dict(item.split("=", 1) for item in (folder / "environ").read_text().split("\0") if "=" in item)
            except (OSError, ValueError):
                continue  # it has ended
            if "UNIT_PART" in names:
                found[Path(names["UNIT_PART"]).stem] = int(folder.name)
        if len(found) == count:
            return [found[name] for name in sorted(found)]
        time.sleep(0.05)
    raise AssertionError("no process of a part")


def gone(pids):
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_a_killed_process_ends_the_others_and_a_second_run_goes_on(alone, task, tmp_path):
    store, seen = without_maps(alone[0], tmp_path / "store"), []

    def kill():
        seen.extend(children(os.getpid(), 2))
        os.kill(seen[1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(TryAgainError, match="killed by signal 9"):
        task(2, store)
    killer.join()
    assert gone(seen)
    same(alone, task(1, store))


def started_task(made_priors, store, out):
    """The task as its container starts it, in two processes."""
    shutil.copytree(made_priors[0] / "store", store)
    values = STEP.form("frozen").shared.pipeline_defaults() | {"store": store.as_uri(), "vlm": MODEL, "shard": "0/1"}
    values |= {"params": PARAMS, "rerun": "0"}
    given = executor_input(STEP, out, values, {"priors": [made_priors[2]]})
    command = [sys.executable, "-m", "components", STEP.name, STEP.name, json.dumps(given)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "UNIT_PROCESSES": "2"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_sigterm_ends_all_with_75(made_priors, tmp_path):
    process = started_task(made_priors, tmp_path / "store", tmp_path / "out")
    pids = children(process.pid, 2)
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75, said
    assert "units that were finished are remembered" in said
    assert gone(pids)
    assert not (tmp_path / "out").exists()


def test_processes_die_with_the_task(made_priors, tmp_path):
    process = started_task(made_priors, tmp_path / "store", tmp_path / "out")
    pids = children(process.pid, 2)
    process.kill()
    process.wait()
    process.stderr.close()
    assert gone(pids)


@pytest.mark.parametrize("kind", [ParameterError, DataError, TryAgainError])
def test_an_error_of_a_process_is_the_tasks(monkeypatch, kind):
    def ends(arguments, environments, scratch, *rest):
        leave_error(kind("what happened", source="a process", remedy="what to do"), scratch)
        return kind.exit_code, False

    monkeypatch.setenv("UNIT_PROCESSES", "2")
    monkeypatch.setattr(side_by_side, "run_processes", ends)
    with pytest.raises(kind, match="what happened"):
        side_by_side.compute("step", "task", {}, ["a", "b"], {})


def test_each_process_gets_every_nth_key_one_device_and_no_more_than_there_are(monkeypatch):
    parts = []

    def ends(arguments, environments, scratch, *rest):
        for item in environments:
            part = json.loads(Path(item["UNIT_PART"]).read_bytes())
            parts.append((item["CUDA_VISIBLE_DEVICES"], part["rank"], part["keys"]))
        return 0, False

    monkeypatch.setattr(side_by_side, "run_processes", ends)
    monkeypatch.setenv("UNIT_PROCESSES", "4")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    side_by_side.compute("step", "task", {}, list("abcdef"), {})
    assert parts == [("0", 0, ["a", "e"]), ("1", 1, ["b", "f"]), ("2", 2, ["c"]), ("3", 3, ["d"])]
    parts.clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7,GPU-9,GPU-11,GPU-13")
    side_by_side.compute("step", "task", {}, list("ab"), {})
    assert parts == [("GPU-7", 0, ["a"]), ("GPU-9", 1, ["b"])]


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_number_of_processes_that_is_none(monkeypatch, text):
    monkeypatch.setenv("UNIT_PROCESSES", text)
    with pytest.raises(ParameterError, match="no number of processes"):
        side_by_side.processes()


def test_a_forced_rerun_computes_once_and_its_retry_nothing(alone, made_priors, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    finish, here = WorkFolder.finish, []
    monkeypatch.setattr(WorkFolder, "finish", lambda self, *given: here.append(self.step) or finish(self, *given))
    store = tmp_path / "store"
    shutil.copytree(alone[0], store)
    monkeypatch.setenv("UNIT_PROCESSES", "2")
    shared, inputs = {"vlm": MODEL, "shard": "0/1"}, {"priors": made_priors[2]}
    for _ in range(2):
        found = run_step(STEP, tmp_path, store, PARAMS, shared, inputs, "force-1", form="frozen")
        assert (found["maps"] / "manifest.json").read_bytes() == (alone[1]["maps"] / "manifest.json").read_bytes()
        assert caplog.text.count("6 units in 2 processes") == 2  # two pieces of work per sample, in the first try alone
    assert not {STEP.name, MAPS} & set(here)
    assert metrics(found)["share_remembered"] == 1.0
