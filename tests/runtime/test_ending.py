"""What a task of a cluster leaves in the store about its end, by the executor inputs that KFP 2.17 handed to real pods.

`executor_inputs.json.gz` holds one per task, as they stand in a run's recorded Workflow.
"""

import gzip
import json
import time
from pathlib import Path

import pytest

from components.core.errors import DataError, TryAgainError
from components.runtime import ending
from components.runtime.runner import run_task
from components.store import failures
from components.store.entries import Store
from tests.runtime.test_step import declare

RECORDED = json.loads(gzip.decompress(Path(__file__).with_name("executor_inputs.json.gz").read_bytes()))
RUN = "6e703be7-8657-44e3-9690-e36394367b89"


@pytest.mark.parametrize("task", RECORDED)
def test_the_run_is_found_in_what_a_pod_was_given(task):
    assert ending.run_id(task, RECORDED[task]) == RUN


def test_other_addresses_name_no_run():
    """A run here, and a pipeline root that holds a UUID of its own."""
    own = "0" * 8 + "-0000-0000-0000-" + "0" * 12
    artifacts = RECORDED["sft"]["outputs"]["artifacts"]
    for item in (group["artifacts"][0] for group in artifacts.values()):
        moved = {"outputs": {"artifacts": {"model": {"artifacts": [{"uri": item["uri"].replace("/v2/", f"/{own}/")}]}}}}
        assert ending.run_id("sft", moved) == RUN
    local = {"outputs": {"artifacts": {"model": {"artifacts": [{"uri": "/out/motion-enhancer-2026-11-29/sft/model"}]}}}}
    assert ending.run_id("sft", local) == ""
    assert ending.run_id("sft", {}) == ""


def given(tmp_path, run=RUN, **values):
    """An executor input of a task `demo`, its outputs in a folder that KFP's addresses name."""
    out = tmp_path / "v2" / run / "demo" / "uuid"
    artifacts = {"videos": {"artifacts": [{"name": "videos", "uri": str(out / "videos"), "metadata": {}}]}}
    values = {
        "store": str(tmp_path / "store"),
        "store_patience": 15,
        "num_steps": 5,
        "head_ratio": 0.5,
        "vdm": "any",
        **values,
    }
    return json.dumps({"inputs": {"parameterValues": values}, "outputs": {"artifacts": artifacts}})


def end(tmp_path, action, **values):
    return run_task(declare(action), "demo", given(tmp_path, **values))


def raising(error):
    def run(context):
        raise error

    return run


def publish(context):
    from components.core.artifacts import VideoDataset

    context.publish("videos", context.manifest(VideoDataset, lines=[]))


def test_a_failure_is_written_and_a_later_success_deletes_it(tmp_path):
    store = Store(str(tmp_path / "store"))
    error = DataError("video 3 is cut\nat byte 7", source="minio://b/v.mp4", remedy="repair it")
    assert end(tmp_path, raising(error)) == 3
    (found,) = failures.read_failures(store, RUN)
    assert (found.task, found.item, found.exit_code) == ("demo", "", 3)
    assert (found.problem, found.source, found.remedy) == (error.problem, error.source, error.remedy)
    assert end(tmp_path, raising(TryAgainError("away", source="s", remedy="later"))) == 75
    assert [item.exit_code for item in failures.read_failures(store, RUN)] == [75]  # the last try's
    assert end(tmp_path, publish) == 0
    assert failures.read_failures(store, RUN) == []


def test_iterations_of_a_loop_have_their_own(tmp_path):
    store = Store(str(tmp_path / "store"))
    for item in ("0/2", "1/2"):
        values = json.loads(given(tmp_path, shard=item))
        ending.note_end("demo", values, ending.Ending(2, "p", "s", "r"))
    ending.note_end("demo", json.loads(given(tmp_path, benchmark="favor=/x")), ending.Ending(2, "p", "s", "r"))
    assert [found.item for found in failures.read_failures(store, RUN)] == ["0/2", "1/2", "favor=/x"]
    ending.note_end("demo", json.loads(given(tmp_path, shard="0/2")), None)
    assert [found.item for found in failures.read_failures(store, RUN)] == ["1/2", "favor=/x"]


def test_a_bug_is_its_class_and_last_line_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("S3_SECRET_KEY", "canary-91d2")
    assert end(tmp_path, raising(RuntimeError("first line\nlast line with canary-91d2 in it"))) == 1
    (found,) = failures.read_failures(Store(str(tmp_path / "store")), RUN)
    assert found.problem == "a bug in this project: RuntimeError: last line with … in it"
    assert found.source.startswith("test_ending.py, line ")
    assert not any(b"canary" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_run_here_writes_nothing(tmp_path):
    error = DataError("p", source="s", remedy="r")
    assert end(tmp_path, raising(error), run="motion-enhancer-2026-11-29-17-22") == 3
    assert not (tmp_path / "store").exists()


def test_a_store_that_is_away_or_wrong_is_no_second_error(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(ending, "SECONDS", 0.5)
    for name, value in {"ENDPOINT": "http://127.0.0.1:1", "ACCESS_KEY": "a", "SECRET_KEY": "b"}.items():
        monkeypatch.setenv(f"S3_{name}", value)
    error, start = DataError("p", source="s", remedy="r"), time.monotonic()
    assert end(tmp_path, raising(error), store="minio://bucket/store") == 3
    assert time.monotonic() - start < 10
    assert "the store has no note of this end: the store did not answer" in caplog.text
    ending.note_end("demo", json.loads(given(tmp_path, store="ftp://x")), ending.Ending(2, "p", "s", "r"))
    assert "unknown scheme" in caplog.text
