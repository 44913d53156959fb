"""The step runner: exit codes, outputs that must be there, parameters that must be right."""

import json

import pytest
import torch

from components.core.artifacts import VideoDataset
from components.core.errors import DataError, ParameterError, TryAgainError
from components.runtime.declaration import Step, declared
from components.runtime.parameters import (
    HeadRatio,
    NumSteps,
    Shard,
    SharedParams,
    UnitParams,
    Vdm,
    validated,
)
from components.runtime.runner import executor_input, run_step, run_task
from components.steps import STEPS
from tests import runner


class Shared(SharedParams):
    num_steps: NumSteps
    head_ratio: HeadRatio
    vdm: Vdm = "any"


def declare(run):
    return Step("demo", "1", "Demo", "thing", "cpu", run, UnitParams, Shared, outputs={"videos": VideoDataset})


def call(run, tmp_path, **values):
    given = {"store": str(tmp_path / "store"), "store_patience": 15, "num_steps": 5.0, "head_ratio": 0.5, **values}
    step = declare(run)
    return run_task(step, "demo", json.dumps(executor_input(step, tmp_path, given, {})))


BAD = {"unread": "no text", "failed": "no frames", "nan": "NaN or infinity in {'score': nan}"}


def work(context):
    """Five units, three of them bad: in what they read, as they are computed, in what comes out."""

    def reads(unit):
        if unit == "unread":
            raise DataError(BAD[unit], source=unit, remedy="none")
        return {"unit": unit}

    def compute(unit, folder):
        if unit == "failed":
            raise DataError(BAD[unit], source=unit, remedy="none")
        folder.put("file", "bin", unit.encode())
        return {"score": float("nan" if unit == "nan" else 1)}

    entries = context.each(["unread", "first", "failed", "nan", "last"], name=str, reads=reads, compute=compute)
    assert list(entries) == ["first", "last"]
    assert {item.unit: item.reason for item in context.left_out} == BAD
    context.publish("videos", context.manifest(VideoDataset, lines=[]))
    (context.store.backend.root.parent / "counts").write_text(json.dumps(context.counts))


def publish(context):
    context.publish("videos", context.manifest(VideoDataset, lines=[]))


def test_ok(tmp_path):
    assert call(publish, tmp_path) == 0
    answer = json.loads((tmp_path / "executor_output.json").read_text())
    assert answer["artifacts"]["videos"]["artifacts"][0]["metadata"] == {}  # each reader's record would repeat it


def test_a_forgotten_output_is_a_bug(tmp_path):
    assert call(lambda context: None, tmp_path) == 1
    assert not (tmp_path / "executor_output.json").exists()


def test_exit_codes(tmp_path):
    def busy(context):
        raise TryAgainError("503", source="store", remedy="wait")

    assert call(busy, tmp_path) == 75
    for wrong in ({"head_ratio": 0}, {"head_ratio": 1.5}, {"params": {"misspelt": 1}}, {"unheard_of": 1}):
        assert call(publish, tmp_path, **wrong) == 2
    assert call(lambda context: context.input("videos", VideoDataset), tmp_path) == 2


def test_a_gpu_without_room_is_no_bug(tmp_path, caplog):
    def full(context):
        raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")

    assert call(full, tmp_path) == 2
    assert "lower num_frames" in caplog.text
    assert "2.00 GiB" in caplog.text


def test_a_key_depends_on_results_alone_and_not_on_how_a_number_was_spelt():
    def key(max_failed=0.0, **shared):
        demo = declare(publish)
        given = Shared(**{"store": "file:///a", "store_patience": 15, "num_steps": 5, "head_ratio": 1, **shared})
        return demo.key(UnitParams(max_failed=max_failed), demo.shared_result(given), {}, {})

    assert key() == key(0.5) == key(num_steps=5.0, head_ratio=1.0) == key(store="file:///b", vdm="another")
    assert key() == key(store_patience=1)
    assert len({key(), key(num_steps=6), key(head_ratio=0.5)}) == 3


def test_the_form_is_the_one_that_fits_and_what_it_lacks_is_named(tmp_path):
    step = declared("vlm_attention")
    assert step.form_for(["store", "vlm", "shard", "priors"]) is step.forms["frozen"]
    assert step.form_for(["store", "priors", "model"]) is step.forms["tuned"]
    assert all(step.form_for(form.names) is form for step in map(declared, STEPS) for form in step.forms.values())
    with pytest.raises(ParameterError, match="no vlm"):
        run_step(step, tmp_path, {"store": "x", "store_patience": 1, "shard": "0/1"}, {"priors": [tmp_path]})


def test_shards_partition_the_videos():
    names = [f"{k:064x}" for k in range(50)]
    for count in (1, 2, 7):
        assert [sum(Shard(k, count).holds(name) for k in range(count)) for name in names] == [1] * 50
    for text in ("2/2", "x", "1", "1/2/3", "-1/2", "a/b"):
        with pytest.raises(ParameterError, match=f"shard '{text}' is not k/n"):
            Shard.parse(text)


def test_a_misspelt_key_names_the_value_and_what_is_known():
    with pytest.raises(ParameterError, match="rowz") as caught:
        validated(declared("attention_capture").params, {"rowz": 3}, "params_attention_capture")
    assert "params_attention_capture" in str(caught.value)
    assert "rows" in str(caught.value)


def test_unknown_model(tmp_path):
    shared = {"source": str(tmp_path), "vdm": "nonesuch"}
    with pytest.raises(ParameterError, match="unknown model 'nonesuch'"):
        runner.run_step(declared("plan"), tmp_path, tmp_path / "store", shared=shared, form="motion_priors")


def test_a_bad_unit_is_left_out_wherever_it_fails_and_the_others_go_on(tmp_path):
    assert call(work, tmp_path, params={"max_failed": 0.6}) == 0
    assert json.loads((tmp_path / "counts").read_text()) == {"computed": 2, "remembered": 0, "failed": 3}
    assert call(work, tmp_path, params={"max_failed": 0.6}) == 0
    assert json.loads((tmp_path / "counts").read_text()) == {"computed": 0, "remembered": 2, "failed": 3}


def test_more_bad_units_than_allowed_are_all_named_and_the_others_done(tmp_path, caplog):
    assert call(work, tmp_path, params={"max_failed": 0.5}) == 3
    assert "3 of 5 things failed" in caplog.text
    assert all(f"{unit}: {reason}" in caplog.text for unit, reason in BAD.items())
    assert len(list((tmp_path / "store").rglob("entry.json"))) == 2


def test_thousands_of_bad_units_are_a_short_message_and_a_file(tmp_path, caplog):
    """The log names the first ones as they fail, the message the same at the end, the file all of them."""
    names = [f"unit-{n:04}" for n in range(3000)]

    def compute(unit, folder):
        raise DataError("no frames", source=unit, remedy="none")

    def all_fail(context):
        context.each([*names, "last"], name=str, reads=lambda unit: {"unit": unit}, compute=compute)

    assert call(all_fail, tmp_path) == 3
    assert "3001 of 3001 things failed" in caplog.text
    assert caplog.text.count("unit-") == 2 * 20 + 20  # where it was, too, as it failed
    assert "and 2,981 more, all in" in caplog.text
    (file,) = (tmp_path / "store/failures/lists").iterdir()
    assert file.read_text() == "".join(f"{name}: no frames\n" for name in [*names, "last"])


@pytest.mark.parametrize("data", [b"", b'{"step": "demo", "ver'], ids=["empty", "cut"])
def test_a_damaged_entry_stops_its_reader_and_the_named_rerun_heals_it(tmp_path, caplog, data):
    assert call(work, tmp_path, params={"max_failed": 1}) == 0
    entry, _ = (tmp_path / "store").rglob("entry.json")
    entry.write_bytes(data)
    assert call(work, tmp_path, params={"max_failed": 1}) == 3
    assert "set rerun_demo to a new value" in caplog.text
    assert call(work, tmp_path, params={"max_failed": 1}, rerun="1") == 0
    assert "is damaged: computing again" in caplog.text
    assert json.loads((tmp_path / "counts").read_text()) == {"computed": 1, "remembered": 1, "failed": 3}
    assert call(work, tmp_path, params={"max_failed": 1}) == 0
