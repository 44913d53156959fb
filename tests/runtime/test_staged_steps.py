"""The extraction's steps on tiny models, read ahead and written behind, against one unit at a time: to the byte.

Whole, with units that fail, with a disk that fills up, killed at any write and resumed.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import torch

from components.core.artifacts import Trajectories, VideoDataset
from components.core.errors import DataError, TryAgainError
from components.core.text import sample_id
from components.ddim_inversion.settings import InversionSettings
from components.ddim_inversion.video import invert_video, sample_clip
from components.kubeflow.tree import ROOT
from components.models.registry import ensure_tiny
from components.models.video import load_vdm
from components.runtime.declaration import declared
from components.runtime.runner import executor_input
from components.store.entries import Store
from components.store.tensors import unpack
from components.synthetic.scenes import write_set
from tests.chain import SMALL
from tests.infrastructure.faulty import UNAVAILABLE, FaultyProxy
from tests.runner import changed, metrics, published, put_manifest, run_step
from tests.s3_server import s3_server
from tests.vlm_attention import made

COUNT = 5
VDM = {"vdm": "tiny-cogvideox", "num_steps": 2, "shard": "0/1"}


@dataclass
class Task:
    """A step with its inputs, the store that it begins with, and the folders of its work."""

    step: str
    start: Path
    works: tuple[str, ...]
    output: str
    given: dict[str, Any]
    params: dict[str, Any]

    def run(self, folder, prefetch, **params):
        """Run it on the store of `folder`, which is made unless it is there."""
        if not (folder / "store").exists():
            shutil.copytree(self.start, folder / "store")
        params = {**self.params, "prefetch": prefetch, **params}
        return run_step(declared(self.step), folder, folder / "store", params, **self.given)

    def written(self, folder):
        """Every file of its work, with its bytes; not what a killed process has not ended."""
        files = [file for work in self.works for file in (folder / "store" / work).rglob("*.*")]
        return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.name[:5] != ".tmp-"}

    def manifest(self, outputs):
        return (outputs[self.output] / "manifest.json").read_bytes()

    def entries(self, folder):
        """What the store remembers of it; no file of an entry may be missing."""
        store = Store(str(folder / "store"))
        found = [file for work in self.works for file in (folder / "store" / work).glob("*/entry.json")]
        entries = [store.entry(file.parent.parent.name, file.parent.name) for file in found]
        assert not [path for entry in entries for path in store.damaged(entry)]
        assert all((folder / "store" / file.path).is_file() for entry in entries for file in entry.files.values())
        return {entry.key for entry in entries}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The three steps; every video that is captured has two samples, and one more task finds scratch empty."""
    folder = tmp_path_factory.mktemp("staged")
    write_set(folder / "set", "scenes", COUNT, seed=5, size=(64, 64), num_frames=17)
    source = {"source": str(folder / "set")}
    videos = run_step(declared("dataset_import"), folder, folder / "a" / "store", {}, source, form="training")["videos"]
    small = {**SMALL["ddim_inversion"], "pictures": 0}
    works, given = ("ddim_inversion", "scratch"), {"shared": VDM, "inputs": {"videos": videos}}
    invert = Task("ddim_inversion", folder / "a" / "store", works, "trajectories", given, small)
    outputs = invert.run(folder / "b", 0)
    trajectories = published(outputs, "trajectories", Trajectories)
    lines = [line.model_copy(update={"samples": [*line.samples, asked_again(line)]}) for line in trajectories.lines]
    twice = put_manifest(folder / "twice", changed(trajectories, lines=lines), folder / "b" / "store")
    given = {"shared": VDM, "inputs": {"trajectories": twice}}
    shutil.copytree(folder / "b" / "store", folder / "c" / "store", ignore=shutil.ignore_patterns("scratch"))
    works, small = ("attention_capture",), SMALL["attention_capture"]
    capture = Task("attention_capture", folder / "b" / "store", works, "maps", given, small)
    again = Task("attention_capture", folder / "c" / "store", works, "maps", given, small)
    priors = made.prior_lines(folder / "priors", folder / "d" / "store", COUNT)
    given = {"shared": {"vlm": "tiny-qwen2.5-vl", "shard": "0/1"}, "form": "frozen"}
    given["inputs"] = {"priors": made.prior_set(folder / "artifact", priors, folder / "d" / "store")}
    works, seen = ("vlm_attention", "vlm_attention_maps"), {"viewing": made.VIEWING, "maps_for": "all", "pictures": 0}
    see = Task("vlm_attention", folder / "d" / "store", works, "maps", given, seen)
    return {"ddim_inversion": invert, "attention_capture": capture, "empty scratch": again, "vlm_attention": see}


def asked_again(line):
    """A second sample of a line's video."""
    (sample,) = line.samples
    words = f"{sample.response} It moves on."
    name = sample_id(line.video.id, sample.question, [], words, [])
    return sample.model_copy(update={"id": name, "response": words, "uid": f"{sample.uid}+"})


@pytest.mark.parametrize("name", ["ddim_inversion", "attention_capture", "empty scratch", "vlm_attention"])
def test_every_byte_is_that_of_one_at_a_time(tasks, tmp_path, name):
    task = tasks[name]
    one, many = task.run(tmp_path / "one", 0), task.run(tmp_path / "many", 3)
    assert task.written(tmp_path / "many") == task.written(tmp_path / "one")
    assert task.manifest(many) == task.manifest(one)
    assert len(task.entries(tmp_path / "many")) == {"ddim_inversion": COUNT}.get(name, 2 * COUNT)
    assert all(0 < metrics(outputs)["device_waited"] < 1 for outputs in (one, many))
    again = task.run(tmp_path / "many", 3)
    assert task.manifest(again) == task.manifest(one)  # each unit is remembered under its own key
    assert "device_waited" not in metrics(again)  # nothing was computed


def test_what_is_kept_of_a_video_is_its_own(tasks, tmp_path):
    """Inverted once more, each by itself."""
    outputs, store = tasks["ddim_inversion"].run(tmp_path, 3), Store(str(tmp_path / "store"))
    vdm = load_vdm(ensure_tiny(VDM["vdm"]), "float32", "cpu")
    settings = InversionSettings(**SMALL["ddim_inversion"])
    lines = published(outputs, "trajectories", Trajectories).lines
    for line in lines:
        clip = sample_clip(vdm.frames, line.video, settings, store.fetch(line.video.file))
        done = invert_video(vdm, clip, settings, VDM["num_steps"])
        assert torch.equal(unpack(store.read(line.latents))["latents"], done.latents)
        assert (line.frames, line.grid) == (clip.frames, done.grid)
    assert len({line.latents.sha256 for line in lines}) == COUNT


def test_a_trajectory_is_read_once_for_the_samples_of_its_video(tasks, tmp_path, monkeypatch):
    read, paths = Store.read, []
    monkeypatch.setattr(Store, "read", lambda store, ref: paths.append(ref.path) or read(store, ref))
    tasks["attention_capture"].run(tmp_path, 2)
    assert len([path for path in paths if path.startswith("scratch/")]) == COUNT


def lose(folder, task, places):
    """Delete the files of videos of ddim_inversion's input; how its lines are called."""
    lines = [*published(task.given["inputs"], "videos", VideoDataset).lines]
    for place in places:
        (folder / "store" / lines[place].video.file.path).unlink()
    return [lines[place].video.called for place in places]


def test_failing_units_are_those_of_one_at_a_time_and_in_its_order(tasks, tmp_path, caplog):
    task, said = tasks["ddim_inversion"], []
    for name, prefetch in (("one", 0), ("many", 3)):
        shutil.copytree(task.start, tmp_path / name / "store")
        lost = lose(tmp_path / name, task, [3, 1])
        caplog.clear()
        with pytest.raises(DataError, match=f"2 of {COUNT} videos failed") as caught:
            task.run(tmp_path / name, prefetch)
        logged = [item.message for item in caplog.records if "left out" in item.message]
        assert [message.startswith(called) for message, called in zip(logged, lost[::-1], strict=True)] == [True] * 2
        found = task.manifest(task.run(tmp_path / name, prefetch, max_failed=0.5))
        said.append(([text.replace(f"/{name}/", "/") for text in (str(caught.value), *logged)], found))
    assert said[0] == said[1]
    assert task.written(tmp_path / "many") == task.written(tmp_path / "one")


@pytest.mark.parametrize("name", ["ddim_inversion", "attention_capture", "vlm_attention"])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_full_disk_ends_the_step_and_leaves_no_entry_of_that_unit(tasks, tmp_path, monkeypatch, name, prefetch):
    """There is no space for the tensors of the third work that is written."""
    task, begun, replace = tasks[name], [], Path.replace

    def full(file, target):
        if target.suffix == ".safetensors" and target.parent.parent.name in task.works:
            begun.extend({target.parent.name} - {*begun})
            if target.parent.name in begun[2:3]:
                raise OSError(errno.ENOSPC, "No space left on device")
        return replace(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(TryAgainError, match="no space left while writing"):
            task.run(tmp_path, prefetch)
    done = task.entries(tmp_path)
    assert {*begun[:2]} <= done  # as they were computed
    assert begun[2] not in done
    whole = task.run(tmp_path, prefetch)
    assert metrics(whole)["share_remembered"] == round(len(done) / len(task.entries(tmp_path)), 4)
    task.run(tmp_path / "one", 0)
    assert task.written(tmp_path) == task.written(tmp_path / "one")


def test_a_store_that_goes_away_ends_the_step_and_loses_what_was_in_flight(tasks, tmp_path, monkeypatch):
    """A server that answers nothing but 503 from the second entry on, with readers and writers at work."""
    task, entries = tasks["ddim_inversion"], []
    source = {"source": str(task.start.parents[1] / "set")}

    def away(number, method, path):
        if len(entries) >= 2:
            return UNAVAILABLE
        entries.extend([path] * (method == "PUT" and f"/{task.step}/" in path))
        return None

    def run(prefetch=2, **shared):
        params = {**task.params, "prefetch": prefetch}
        given = {"shared": VDM | shared, "inputs": {"videos": videos}}
        return run_step(declared("ddim_inversion"), tmp_path, "minio://main/store", params, **given)

    with s3_server("main"), FaultyProxy(urlparse(os.environ["S3_ENDPOINT"]).netloc) as proxy:
        imported = run_step(declared("dataset_import"), tmp_path, "minio://main/store", {}, source, form="training")
        videos = imported["videos"]
        monkeypatch.setenv("S3_ENDPOINT", proxy.endpoint)
        proxy.fault = away
        with pytest.raises(TryAgainError, match=r"did not answer within 0\.05 minutes"):
            run(store_patience=0.05)
        proxy.fault = lambda *_: None
        again = run()
        assert metrics(again)["share_remembered"] == 2 / COUNT
    assert task.manifest(again) == task.manifest(task.run(tmp_path / "one", 0))


DYING = """
import os, signal, sys
from components.runtime.runner import main
from components.store.file import FileBackend

left, target = [int(sys.argv[1])], FileBackend._target

def dying(backend, path):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return target(backend, path)

FileBackend._target = dying
main(sys.argv[2:])
"""


@pytest.mark.parametrize(("name", "number"), [("ddim_inversion", 6), ("vlm_attention", 9)])
def test_a_kill_at_any_write_loses_what_was_in_flight(tasks, tmp_path, name, number):
    """The container's command dies as it opens a file to write for the `number`-th time."""
    task, step = tasks[name], declared(name)
    shutil.copytree(task.start, tmp_path / "store")
    shared = step.form(task.given.get("form", "")).shared.pipeline_defaults() | task.given["shared"]
    values = shared | {"store": str(tmp_path / "store"), "params": {**task.params, "prefetch": 2}, "rerun": "0"}
    inputs = {name: [folder] for name, folder in task.given["inputs"].items()}
    request = json.dumps(executor_input(step, tmp_path / "killed", values, inputs))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DYING, str(number), name, name, request]
    assert subprocess.run(command, env=environment, timeout=120, check=False).returncode == -signal.SIGKILL
    done = task.entries(tmp_path)  # each with all its files
    assert len(done) >= (number - 1) // 2 - 2  # a unit is two files, and two are written at a time
    outputs = task.run(tmp_path, 2)
    assert metrics(outputs)["share_remembered"] == round(len(done) / len(task.entries(tmp_path)), 4)
    whole = task.run(tmp_path / "one", 0)
    assert task.manifest(outputs) == task.manifest(whole)
    assert task.written(tmp_path) == task.written(tmp_path / "one")
