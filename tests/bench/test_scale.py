"""The fabricated store is valid: every step finds its work remembered, and nothing of it is missing or damaged.

The S3 endpoint does for the store's client what the client asks for, late, and counts it.
"""

import json
import time

import pytest

from bench.scale_made import HEADS, fabricate, templates
from bench.scale_tasks import EXTRACTION, PARAMS, SHARDS, TASKS, World, endpoint
from components.core.artifacts import PriorSet, VlmMaps
from components.store.check import check
from components.store.entries import Store
from components.store.s3 import MinioBackend

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


def computed(world, name, shard=None):
    found = metrics(world, name, shard)
    return round(found["units"] * (1 - found["share_remembered"]), 2)


def test_everything_is_remembered(world):
    assert metrics(world, "dataset_import")["units"] == COUNT
    assert computed(world, "dataset_import") == 0
    for task in ("ddim_inversion", "attention_capture", "token_selection"):
        assert [computed(world, task, shard) for shard in range(SHARDS)] == [0] * SHARDS
        assert sum(metrics(world, task, shard)["units"] for shard in range(SHARDS)) == COUNT
    # of the pictured samples alone the VLM's own maps are computed
    mapped = [metrics(world, "vlm_attention", shard)["mapped"] for shard in range(SHARDS)]
    assert [computed(world, "vlm_attention", shard) for shard in range(SHARDS)] == mapped
    assert sum(mapped) == PARAMS["vlm_attention"]["pictures"]
    assert metrics(world, "head_selection")["heads"] == HEADS
    assert metrics(world, "prior_set")["samples"] == COUNT


def test_the_store_is_whole(world):
    store = Store(world.shared["store"])
    priors = store.opened(world.outputs("prior_set") / "priors", PriorSet)
    maps = [store.opened(world.outputs("vlm_attention", k) / "maps", VlmMaps) for k in range(SHARDS)]
    found = check(store, [priors, *maps], content=True)
    assert found.files > 4 * COUNT
    assert not found.damages


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_the_endpoint_keeps_objects_and_counts(tmp_path, monkeypatch):
    root = tmp_path / "bucket"
    root.mkdir()
    many = [f"many/{k:04d}" for k in range(1001)]  # a page of a listing has a thousand
    with endpoint(root, delay=20) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        backend = MinioBackend.from_environment("minio://bucket/store")
        backend.put("a/one", b"0123456789")
        assert (root / "store" / "a" / "one").read_bytes() == b"0123456789"
        assert backend.get("a/one") == b"0123456789"
        assert backend.read("a/one", 3, 4) == b"3456"
        assert backend.get("a/two") is backend.size("a/two") is None
        assert backend.size("a/one") == 10
        backend.put("a/large", large := bytes(range(256)) * 24_000)  # in two parts
        assert backend.get("a/large") == large
        backend.delete("a/large")
        assert backend.copy_from(backend, "a/one", "b/two & three")
        assert backend.get("b/two & three") == b"0123456789"
        backend.delete("a/one")
        assert backend.size("a/one") is None
        (root / "store" / "many").mkdir()
        for path in many:
            (root / "store" / path).touch()
        server.counts()
        assert [item.path for item in backend.walk("many")] == many
        assert [item.path for item in backend.walk()] == ["b/two & three", *many]
        assert sorted(backend.folders()) == ["a", "b", "many"]
        backend.get("b/two & three")
        counts = server.counts()
        assert (counts["LIST"], counts["GET"]) == (5, 1)
        assert not server.counts()
        assert min(timed(lambda: backend.size("none")) for _ in range(10)) >= 0.02
