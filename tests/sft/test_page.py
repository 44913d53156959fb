"""The card of a tuned model."""

import pytest

from components.core.artifacts import TunedModel
from components.core.records import ModelId, Ref, StepRecord
from components.media.viewing import Viewing
from components.sft.page import card
from tests.pages.reading import tables


def tuned(viewing):
    """The manifest of a model that was trained at this viewing."""
    base = ModelId(name="qwen2.5-vl-7b", digest="0" * 64)
    records = {"vlm_attention": {"viewing": viewing}, "sft": {}}
    provenance = {
        task: StepRecord(version="1", params=params, scalars={}, models={"vlm": base})
        for task, params in records.items()
    }
    log = Ref(path="sft/x/log.jsonl", sha256="0" * 64, bytes=1, task="sft")
    named = {"kind": "TunedModel", "key": "0" * 32, "files": [], "aligner": [], "lines": []}
    return TunedModel(**named, log=log, provenance=provenance)


@pytest.mark.parametrize("rule", ["qwen", "transformers"])
def test_it_names_the_rule_of_positions_and_what_the_other_changes(rule):
    page = card(tuned(Viewing(positions=rule).model_dump()))
    assert f"Trained under the rule `{rule}`" in page
    found = next(table for table in tables(page) if table[0][0] == "clip")
    table = dict(zip(found[0][1:], zip(*(row[1:] for row in found[1:]), strict=True), strict=True))
    qwen = {"Qwen2.5-VL": ("0", "39", "219", "1179"), "Qwen3-VL": ("-2",) * 4}  # of 4, 30, 120, 600 s
    assert table == {"InternVL3": ("0",) * 4, **qwen}


def test_a_model_from_before_the_parameter_is_of_the_rule_that_there_was():
    assert "Trained under the rule `qwen`" in card(tuned({"fps": 1.0}))
