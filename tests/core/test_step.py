"""The step runner: exit codes, outputs that must be there, parameters that must be right."""

import json

import pytest

from components.core.artifacts import VideoDataset
from components.core.errors import ParameterError, TryAgainError
from components.core.parameters import Scalars, StepParams
from components.core.shards import Shard
from components.core.step import Step, main, validate_step
from tests.chain import step
from tests.runner import run_step


def declare(run):
    return Step(
        name="demo", version="1", title="Demo", unit="thing", device="cpu", params=StepParams, run=run, scalars=("num_steps", "head_ratio"),
        outputs={"videos": VideoDataset},
    )  # fmt: skip


def call(run, tmp_path, **values):
    out = tmp_path / "out"
    given = {"store": str(tmp_path / "store"), "params": {}, "rerun": "0", "num_steps": 5.0, "head_ratio": 0.5, **values}
    request = {
        "inputs": {"parameterValues": given},
        "outputs": {"artifacts": {"videos": {"artifacts": [{"uri": str(out)}]}}, "outputFile": str(tmp_path / "answer.json")},
    }
    return main(declare(run), ["demo", json.dumps(request)])


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
    with pytest.raises(ParameterError):
        Shard.parse("2/2")


def test_a_misspelt_key_names_the_value_and_what_is_known():
    with pytest.raises(ParameterError, match="rowz") as caught:
        validate_step(step("attention_capture"), {"rowz": 3}, {})
    assert "params_attention_capture" in str(caught.value)
    assert "rows" in str(caught.value)


def test_unknown_model(tmp_path):
    scalars = {"source": str(tmp_path), "vdm": "nonesuch"}
    with pytest.raises(ParameterError, match="unknown model 'nonesuch'"):
        run_step(step("plan"), tmp_path, tmp_path / "store", form="motion_priors", scalars=scalars, step_params={})
