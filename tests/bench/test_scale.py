"""The fabricated store is valid: every step finds its work remembered, and nothing of it is missing or damaged."""

import json

import pytest

from bench.scale_made import HEADS, fabricate, templates
from bench.scale_tasks import EXTRACTION, SHARDS, TASKS, World
from components.core.artifacts import PriorSet, VlmMaps
from components.store.check import check
from components.store.entries import Store

COUNT = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("scale")
    world = World(root, str(COUNT), root.as_uri())
    fabricate(world, templates(root), COUNT, [root.as_uri()])
    world.run([*EXTRACTION, TASKS["vlm_attention"]])
    return world


def metrics(world, name, shard=None):
    return json.loads((world.outputs(name, shard) / "metrics").read_bytes())


def test_everything_is_remembered(world):
    found = [metrics(world, "dataset_import")]
    for task in ("ddim_inversion", "attention_capture", "token_selection", "vlm_attention"):
        found += [metrics(world, task, shard) for shard in range(SHARDS)]
    computed = [one for one in found if one["share_remembered"] != (1 if one["units"] else 0)]
    # the maps of the pictured samples are computed
    assert all(one.get("mapped") for one in computed), computed
    assert metrics(world, "head_selection")["heads"] == HEADS
    assert metrics(world, "prior_set")["samples"] == COUNT


def test_the_store_is_whole(world):
    store = Store(world.shared["store"])
    priors = store.opened(world.outputs("prior_set") / "priors", PriorSet)
    maps = [store.opened(world.outputs("vlm_attention", k) / "maps", VlmMaps) for k in range(SHARDS)]
    found = check(store, [priors, *maps], content=True)
    assert found.files > 4 * COUNT
    assert not found.damages
