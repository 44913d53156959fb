"""`store gc` of manifests in parts, of packed copies, and of long manifests with their lines inline."""

import pytest

from components.core.artifacts import PriorLine, PriorSet
from components.core.errors import DataError
from components.core.lines import part_path
from components.core.records import canonical_json, sha256
from components.store import names
from components.store.check import check, products
from tests.store.in_parts import in_parts, part
from tests.store.made_store import Made, everything_of, paths
from tests.store.test_gc import DAY, collected, collector, deleting, gone, shift_times

ZIP = f"manifests/parts/{'a' * 64}.zip"


@pytest.fixture
def made(store):
    return Made(store)


def set_in_parts(made, **fields):
    line = PriorLine(**made.prior_line())
    return in_parts(made.store, [(line, line.video)], **fields)


def test_lines_in_parts_keep_what_inline_lines_keep(store, made):
    digest, parts = set_in_parts(made)
    left = paths(store) - gone(store)
    assert {f"manifests/{digest}.json", *parts, f"videos/{sha256(b'video')}.mp4"} <= left
    made.priors()
    gone(store)
    gone(store, digest)
    assert paths(store) - {path for path in paths(store) if path.startswith("manifests/")} == {
        path for path in left if not path.startswith("manifests/")
    }


def test_a_part_goes_when_no_kept_head_names_it_and_it_is_old(store, made):
    first, parts = set_in_parts(made)
    line = PriorLine(**made.prior_line(truncated=1))
    second, others = in_parts(store, [(line, line.video)])
    assert parts[1] == others[1]  # of the same videos
    stray = part_path(part(store, {"video": "0" * 64})["sha256"])
    assert gone(store, first, later=29 * DAY) == {f"manifests/{first}.json"}
    assert gone(store) >= {stray, parts[0]}
    assert {*others, f"manifests/{second}.json"} <= paths(store)
    gone(store, second)
    assert paths(store) == set()


def test_a_packed_part_is_kept_by_its_path(store, made):
    reference = {"path": ZIP, "sha256": "a" * 64, "bytes": 3, "task": "attention_capture"}
    digest, _ = set_in_parts(made, statistics=reference)
    store.backend.put(ZIP, b"PK")
    assert ZIP not in gone(store)
    assert ZIP in gone(store, digest)


@pytest.mark.parametrize("data", [None, b"damaged", b""])
def test_a_kept_part_that_cannot_be_read_stops_everything(store, made, data):
    digest, parts = set_in_parts(made)
    if data is None:
        store.backend.delete(parts[0])
    else:
        store.backend.put(parts[0], data)
    before = paths(store)
    with pytest.raises(DataError, match="what it names is unknown") as caught:
        collected(store)
    assert parts[0] in caught.value.source
    assert f"--drop sha256:{digest}" in caught.value.remedy
    assert paths(store) == before
    assert gone(store, digest) == before


def test_a_run_that_publishes_parts_meanwhile_keeps_what_they_name(store, made, monkeypatch):
    made.work("a_first", "work", {}, x=b"x")
    deleting(store, monkeypatch, lambda: set_in_parts(made), 1)
    assert everything_of(made.prior, made.maps, made.trajectory, made.drawn) <= paths(store)


def test_a_part_that_is_written_again_meanwhile_stays(store, made, monkeypatch):
    stray, walked = part_path(part(store, {"video": "0" * 64})["sha256"]), []
    shift_times(monkeypatch, store, lambda _, path: 40 * DAY * (bool(walked) and path == stray))
    plan = (collecting := collector(store)).plan()
    assert [item.path for item in plan.victims["parts"]] == [stray]
    walked.append("the plan")
    collecting.delete(plan)
    assert stray in paths(store)


def test_copies_of_entries_go_before_any_entry_of_their_step(store, made, monkeypatch):
    set_in_parts(made)
    kept, copied = ([f"indexes/{step}/{'0' * 32}.zip" for step in steps] for steps in (["token_selection"], ["sft"]))
    copied.append(f"indexes/sft/{'1' * 32}.zip")
    others = [f"indexes/sft/{'0' * 31}.zip", "indexes/notes.zip"]
    for path in (*kept, *copied, *others):
        store.backend.put(path, b"PK")
    planned = [item.path for item in collector(store).plan().victims["indexes"]]
    assert sorted(planned) == sorted(copied)
    deleted = deleting(store, monkeypatch, lambda: None, 0)
    first = min(deleted.index(path) for path in deleted if path.startswith("sft/"))
    assert max(deleted.index(path) for path in copied) < first
    assert {*kept, *others} <= paths(store)
    assert not {*copied} & paths(store)


def test_a_copy_that_is_written_while_entries_go_goes_too(store, made, monkeypatch):
    path = f"indexes/sft/{'0' * 32}.zip"
    deleting(store, monkeypatch, lambda: store.backend.put(path, b"PK"), 8)  # sft was the seventh
    assert path not in paths(store)


def test_young_copies_go_with_their_entries(store, made, monkeypatch):
    path = f"indexes/sft/{'0' * 32}.zip"
    store.backend.put(path, b"PK")
    shift_times(monkeypatch, store, lambda _, listed: 40 * DAY * (listed == path))
    assert path in gone(store)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_a_manifest_with_its_lines_inline_is_read_in_blocks(store, made, monkeypatch, block):
    made.tuned()
    expected = {path for path in paths(store) if path not in everything_of(made.answer)}
    monkeypatch.setattr(names, "_BLOCK", block)
    monkeypatch.setattr(names, "_LONGEST", 200)
    assert gone(store) == everything_of(made.answer)
    assert paths(store) == expected
    assert check(store, products(store, [PriorSet.KIND])).manifests == 0


def test_names_are_those_of_every_string(store):
    key, digest, video = "0" * 32, "f" * 64, f'videos/{"b" * 64}.m"p\\4'
    told = {
        "a/b é": [key, {"x": f"sha256:{digest}"}],
        "text": 'he said "a/b" or \\ c',
        "n": ["", "/", key + "0", video],
    }
    seen = set(names.names(canonical_json(told)))
    assert {"a/b é", key, digest, video} <= seen
    assert not {"", "/", key + "0", "x", "n", "text"} & seen
