"""The copy of its entries that a task keeps beside them: one request instead of one for each unit."""

import io
import json
import shutil
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.core.records import Ref, sha256
from components.store.entries import Store
from components.store.packed import (
    Index,
    Members,
    in_batches,
    index_path,
    put_files,
    read_files,
    read_index,
    write_index,
    zipped,
)
from components.synthetic.scenes import write_set
from tests.chain import Chain

OWN = {"dataset_import", "ddim_inversion", "attention_capture", "token_selection"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("remembered")
    write_set(tmp / "scenes", "scenes", 4, seed=3, size=(64, 64), num_frames=17)
    chain = Chain(tmp, tmp / "store", tmp / "scenes")
    return tmp, chain, chain.priors()


@pytest.fixture
def copied(world, tmp_path):
    """The store copied, and a function that runs the chain on it and returns (counts, the prior set's head)."""
    shutil.copytree(world[0] / "store", tmp_path / "store")

    def run(**fields):
        chain = Chain(tmp_path, tmp_path / "store", world[0] / "scenes", **fields)
        head = (chain.priors() / "manifest.json").read_bytes()
        return {name: count for name, count in chain.counts.items() if count}, head

    return tmp_path / "store", run


@pytest.fixture
def asked(monkeypatch):
    """Paths that stores are asked for."""
    found, get = [], Store.entry
    monkeypatch.setattr(Store, "entry", lambda self, step, key, **k: found.append(step) or get(self, step, key, **k))
    return found


def test_a_remembered_run_asks_for_no_single_entry(copied, asked, world):
    counts, head = copied[1]()
    assert counts == {}
    assert not OWN & set(asked)
    assert head == (world[2] / "manifest.json").read_bytes()


def test_without_copies_the_entries_are_found_and_the_copies_made_again(copied, asked, world):
    store, run = copied
    before = {file.relative_to(store) for file in (store / "indexes").rglob("*.zip")}
    shutil.rmtree(store / "indexes")
    counts, head = run()
    assert counts == {}
    assert set(asked) >= OWN
    assert head == (world[2] / "manifest.json").read_bytes()
    assert {file.relative_to(store) for file in (store / "indexes").rglob("*.zip")} == before


def test_a_new_video_is_looked_for_alone(copied, asked, world, tmp_path):
    store, _ = copied
    write_set(tmp_path / "more", "scenes", 5, seed=3, size=(64, 64), num_frames=17)
    before = {file: file.read_bytes() for file in (store / "indexes").rglob("*.zip")}
    more = Chain(tmp_path, store, tmp_path / "more", rerun={"dataset_import": "0"})
    more.priors()
    assert {more.counts[name] for name in ("ddim_inversion", "attention_capture", "token_selection")} == {1}
    assert sum(step == "ddim_inversion" for step in asked) == 1
    changed = [file for file, data in before.items() if file.read_bytes() != data]
    assert {file.parent.name for file in changed} == {"ddim_inversion", "attention_capture", "token_selection"}
    assert len(changed) == 3  # the shard's own; the other shard's stay


@pytest.mark.parametrize("kept", ["none", "some"])
def test_deleted_work_is_computed_again(copied, kept):
    """All of it by a bucket's `rm`, or some of it together with `indexes/`, as the module's text says."""
    store, run = copied
    entries = sorted((store / "ddim_inversion").glob("*/entry.json"))
    for entry in entries if kept == "none" else entries[:1]:
        shutil.rmtree(entry.parent)
    if kept == "some":
        shutil.rmtree(store / "indexes")
    counts, _ = run()
    assert counts["ddim_inversion"] == (4 if kept == "none" else 1)


def test_a_rerun_looks_at_every_entry(copied, asked):
    store, run = copied
    (file, *_) = (store / "ddim_inversion").rglob("entry.json")
    entry = json.loads(file.read_bytes())
    latents = store / entry["files"]["latents"]["path"]
    latents.write_bytes(b"damaged")
    assert run() == run()
    assert "ddim_inversion" not in asked
    counts, _ = run(rerun={"ddim_inversion": "1"})
    assert counts == {"ddim_inversion": 1}
    assert asked.count("ddim_inversion") == 4


def test_a_damaged_copy_counts_as_absent(tmp_path, caplog):
    store = Store(str(tmp_path))
    index = Index({"0" * 32: b'{"a":"\xe2\x80\xa8"}', "1" * 32: b"{}"}, {"work/x/y.safetensors": b"\x00\xff"})
    for key in index.entries:
        store.backend.put(f"work/{key}/entry.json", index.entries[key])
    write_index(store, "work", "k", index)
    assert read_index(store, "work", "k") == index
    whole = store.backend.get(index_path("work", "k"))
    for data in (b"", b"no zip", whole[:-30], whole[:99] + b"?" + whole[100:]):
        store.backend.put(index_path("work", "k"), data)
        assert read_index(store, "work", "k") == Index()
    assert caplog.text.count("looking at each entry") == 4
    assert read_index(store, "work", "never written") == Index()
    assert caplog.text.count("looking at each entry") == 4


def test_packed_files_are_equal_for_equal_content_and_verified(tmp_path):
    store = Store(str(tmp_path))
    files = {f"work/{k:032x}/x-{k}.bin": bytes([k]) * k for k in range(5)}
    ref = put_files(store, files, "task")
    assert put_files(store, dict(files), "task") == ref
    assert zipfile.ZipFile(tmp_path / ref.path).namelist() == list(files)
    refs = [Ref(path=path, sha256=sha256(data), bytes=len(data), task="t") for path, data in files.items()]
    assert list(read_files(store, ref, refs[::-1])) == list(files.values())[::-1]
    other = b"newer"
    store.backend.put(refs[0].path, other)  # the packed copy is of an older file
    newer = refs[0].model_copy(update={"sha256": sha256(other), "bytes": len(other)})
    assert list(read_files(store, ref, [newer])) == [other]
    for path, data in list(files.items())[1:]:
        store.backend.put(path, data)
    assert list(read_files(store, None, [newer, *refs[1:]], 2)) == [other, *list(files.values())[1:]]


def test_members_are_those_that_zipfile_reads():
    files = {"keys.txt": b"a\n" * 50, "x/é.bin": b"\x00\xff", "empty.bin": b"", "entries.jsonl": b"{}\n"}
    for before in (b"", b"7" * 64):
        data = before + zipped(files)
        found, archive = Members(data), zipfile.ZipFile(io.BytesIO(data))
        assert dict(found) == files == {name: archive.read(name) for name in archive.namelist()}
        assert (len(found), "none" in found) == (4, False)
        assert found.pop("keys.txt") == files["keys.txt"]
        assert sorted(found) == sorted(set(files) - {"keys.txt"})


def test_batches_keep_their_order_and_are_not_all_asked_for_at_once():
    asked = []
    with ThreadPoolExecutor(4) as pool:
        found = in_batches(pool, lambda k: asked.append(k) or k * k, range(5000))
        assert next(found) == 0
        assert len(asked) <= 1024
        assert list(found) == [k * k for k in range(1, 5000)]
    assert sorted(asked) == list(range(5000))


def test_a_copy_of_large_files_lies_in_memory_once(tmp_path):
    store = Store(str(tmp_path))
    index = Index({"0" * 32: b"{}"}, {f"work/x/{k}.bin": bytes([k]) * 100_000 for k in range(50)})
    store.backend.put(f"work/{'0' * 32}/entry.json", b"{}")
    write_index(store, "work", "k", index)
    tracemalloc.start()
    try:
        found = read_index(store, "work", "k")
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 5e6 < now <= peak < 5.5e6
    assert found == index


def test_the_copies_of_other_parameters_and_shards_are_others(world):
    tmp, _, _ = world
    found = sorted(file.parent.name for file in (tmp / "store/indexes").rglob("*.zip"))
    assert found == ["attention_capture"] * 2 + ["dataset_import"] + ["ddim_inversion"] * 2 + ["token_selection"] * 2
