"""The step runner: exit codes, outputs that must be there, parameters that must be right."""

import json

import pytest
import torch

from components.core.artifacts import VideoDataset
from components.core.errors import DataError, ParameterError, TryAgainError
from components.runtime.declaration import Step, validate_step
from components.runtime.parameters import Scalars, StepParams
from components.runtime.runner import run_task
from components.runtime.shards import Shard
from tests.chain import step
from tests.runner import run_step


def declare(run):
    return Step(
        name="demo",
        version="1",
        title="Demo",
        unit="thing",
        device="cpu",
        params=StepParams,
        run=run,
        scalars=("num_steps", "head_ratio"),
        outputs={"videos": VideoDataset},
    )


def call(run, tmp_path, **values):
    out = tmp_path / "out"
    given = {
        "store": str(tmp_path / "store"),
        "params": {},
        "rerun": "0",
        "num_steps": 5.0,
        "head_ratio": 0.5,
        **values,
    }
    request = {
        "inputs": {"parameterValues": given},
        "outputs": {
            "artifacts": {"videos": {"artifacts": [{"uri": str(out)}]}},
            "outputFile": str(tmp_path / "answer.json"),
        },
    }
    return run_task(declare(run), "demo", json.dumps(request))


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
    (context.store.backend.root / "counts").write_text(json.dumps(context.counts))


def counts(tmp_path):
    return json.loads((tmp_path / "store" / "counts").read_text())


def publish(context):
    context.publish("videos", context.manifest(VideoDataset, lines=[]))


def test_ok(tmp_path):
    assert call(publish, tmp_path) == 0
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["artifacts"]["videos"]["artifacts"][0]["metadata"]["kind"] == "VideoDataset"


def test_a_forgotten_output_is_a_bug(tmp_path):
    assert call(lambda context: None, tmp_path) == 1
    assert not (tmp_path / "answer.json").exists()


def test_exit_codes(tmp_path):
    def busy(context):
        raise TryAgainError("503", source="store", remedy="wait")

    assert call(busy, tmp_path) == 75
    assert call(publish, tmp_path, head_ratio=0) == 2
    assert call(publish, tmp_path, head_ratio=1.5) == 2
    assert call(publish, tmp_path, params={"misspelt": 1}) == 2
    assert call(publish, tmp_path, unheard_of=1) == 2
    assert call(lambda context: context.input("videos", VideoDataset), tmp_path) == 2


def test_a_gpu_without_room_is_no_bug(tmp_path, caplog):
    def full(context):
        raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")

    assert call(full, tmp_path) == 2
    assert "lower num_frames" in caplog.text
    assert "2.00 GiB" in caplog.text


@pytest.mark.parametrize("field", ["head_ratio", "token_ratio"])
@pytest.mark.parametrize("value", [0, -0.1, 1.01])
def test_ratios(field, value):
    with pytest.raises(ValueError, match=field):
        Scalars(**{field: value})


def test_a_key_does_not_depend_on_how_a_number_was_spelt():
    demo = declare(publish)
    scalars = {"num_steps": 5, "head_ratio": 0.5}
    assert demo.key(StepParams(), scalars, {}, {}) == demo.key(StepParams(max_failed=0.5), scalars, {}, {})
    assert demo.key(StepParams(), scalars, {}, {}) != demo.key(StepParams(), {**scalars, "num_steps": 6}, {}, {})


def test_shards_partition_the_videos():
    names = [f"{k:064x}" for k in range(50)]
    for count in (1, 2, 7):
        assert [sum(Shard(k, count).holds(name) for k in range(count)) for name in names] == [1] * 50
    for text in ("2/2", "x", "1", "1/2/3", "-1/2", "a/b"):
        with pytest.raises(ParameterError, match=f"shard '{text}' is not k/n"):
            Shard.parse(text)


def test_a_misspelt_key_names_the_value_and_what_is_known():
    with pytest.raises(ParameterError, match="rowz") as caught:
        validate_step(step("attention_capture"), {"rowz": 3}, {})
    assert "params_attention_capture" in str(caught.value)
    assert "rows" in str(caught.value)


def test_unknown_model(tmp_path):
    scalars = {"source": str(tmp_path), "vdm": "nonesuch"}
    with pytest.raises(ParameterError, match="unknown model 'nonesuch'"):
        run_step(step("plan"), tmp_path, tmp_path / "store", form="motion_priors", scalars=scalars, step_params={})


def test_a_bad_unit_is_left_out_wherever_it_fails_and_the_others_go_on(tmp_path):
    assert call(work, tmp_path, params={"max_failed": 0.6}) == 0
    assert counts(tmp_path) == {"computed": 2, "remembered": 0, "failed": 3}
    assert call(work, tmp_path, params={"max_failed": 0.6}) == 0
    assert counts(tmp_path) == {"computed": 0, "remembered": 2, "failed": 3}


def test_more_bad_units_than_allowed_are_all_named_and_the_others_done(tmp_path, caplog):
    assert call(work, tmp_path, params={"max_failed": 0.5}) == 3
    assert "3 of 5 things failed" in caplog.text
    assert all(f"{unit}: {reason}" in caplog.text for unit, reason in BAD.items())
    assert len(list((tmp_path / "store").rglob("entry.json"))) == 2


@pytest.mark.parametrize("data", [b"", b'{"step": "demo", "ver'], ids=["empty", "cut"])
def test_a_damaged_entry_stops_its_reader_and_the_named_rerun_heals_it(tmp_path, caplog, data):
    assert call(work, tmp_path, params={"max_failed": 1}) == 0
    entry, _ = (tmp_path / "store").rglob("entry.json")
    entry.write_bytes(data)
    assert call(work, tmp_path, params={"max_failed": 1}) == 3
    assert "set rerun_demo to a new value" in caplog.text
    assert call(work, tmp_path, params={"max_failed": 1}, rerun="1") == 0
    assert "is damaged: computing again" in caplog.text
    assert counts(tmp_path) == {"computed": 1, "remembered": 1, "failed": 3}
    assert call(work, tmp_path, params={"max_failed": 1}) == 0
