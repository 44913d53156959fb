"""What fine-tuning takes of disk and store: parameter counts against files and closed forms, bytes by hand."""

import json
import shutil

import pytest
from safetensors import safe_open

from components.models.registry import ensure_tiny
from components.plan.page import fine_tuning
from components.plan.tuning import Counts, count, disk
from components.sft.settings import Params
from tests.models.vlm.cases import INTERN, NAMES, QWEN, QWEN3
from tests.pages.reading import rows

TOWER = {QWEN: "visual.", INTERN: "vision_tower.", QWEN3: "visual."}
# the published shapes of Qwen2.5-VL-7B-Instruct
TEXT = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
TEXT |= {"num_key_value_heads": 4, "vocab_size": 152064, "layer_types": None, "max_window_layers": 28}
VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
ALL = 8_292_166_656


def stored(name):
    """Elements of each tensor of a model's file."""
    with safe_open(ensure_tiny(name) / "model.safetensors", "pt") as file:
        return {key: file.get_tensor(key).numel() for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_those_of_the_file(name):
    sizes = stored(name)
    vision = sum(size for key, size in sizes.items() if TOWER[name] in key and "merger" not in key)
    assert 0 < vision < sum(sizes.values())
    assert count(ensure_tiny(name), Params()) == Counts(sum(sizes.values()), sum(sizes.values()))
    assert count(ensure_tiny(name), Params(train=["vision"])) == Counts(sum(sizes.values()), vision)


def test_counts_of_the_published_model(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(ensure_tiny(QWEN), folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= TEXT
    config["vision_config"] |= VISION | {"patch_size": 14}
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    assert count(folder, Params()) == Counts(ALL, ALL)
    # q and o are 3584 to 3584, k and v 3584 to 4 heads of 128
    adapters = 28 * 8 * (2 * (3584 + 3584) + 2 * (3584 + 512))
    assert count(folder, Params(tuning="lora", lora_rank=8)) == Counts(ALL, adapters, adapters)


def test_bytes_of_full_tuning():
    found = disk(Counts(ALL, ALL), Params(keep="best", keep_last=2, workers=3), [5, 7])
    assert (found.state, found.best, found.model, found.videos) == (12 * ALL, 4 * ALL, 2 * ALL, 8 * 3 * 7)
    assert found.scratch == 18 * ALL + 168
    assert found.stored == 4 * 12 * ALL + 3 * 4 * ALL
    said = fine_tuning(Counts(ALL, ALL), found)
    assert "8,292,166,656 parameters are trained, of the model's 8,292,166,656" in said
    assert rows(said) == {
        "scratch (local disk) of a node, at most": ["149 GB"],
        "- a resume state on its way to the store": ["99.5 GB"],
        "- the best weights": ["33.2 GB"],
        "- the tuned model in bf16": ["16.6 GB"],
        "- videos": ["168 B"],
        "states in the store while it trains, at most": ["498 GB"],
    }


def test_bytes_of_low_rank_updates():
    found = disk(Counts(ALL, 1000, 1000), Params(tuning="lora", processes=2, workers=0), [])
    assert (found.state, found.best, found.model, found.videos) == (12000, 0, 2 * ALL + 4000, 0)
    said = fine_tuning(Counts(ALL, 1000, 1000), found)
    assert "1,000 parameters are trained, beside the model's" in said
    assert "best weights" not in said
    assert "videos" not in said
    assert disk(Counts(1, 1), Params(processes=2, workers=0), [9]).videos == 2 * 9
