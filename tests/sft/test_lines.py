"""A training's lines in its map: the same lines, in the same order, split and paired as the list that they were."""

import errno
import math
import tracemalloc
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from components.core.artifacts import VlmLine
from components.core.errors import ParameterError, TryAgainError
from components.core.records import sha256
from components.sft.data import partners, split
from components.sft.lines import SharedLines, write_lines

VIDEOS, SAMPLES = 11, 40


@pytest.fixture
def mapped(tmp_path):
    """Lines as a training reads them."""
    count = iter(range(100))

    def make(lines):
        folder = tmp_path / f"lines-{next(count)}"
        folder.mkdir()
        write_lines(folder, lines)
        return SharedLines.open(folder)

    return make


@pytest.fixture
def lines(made_priors):
    """Samples of several videos in a random order, with repeated and broken weights."""
    rng, (first, *_) = np.random.default_rng(5), made_priors[1]
    return [made(first, f"{rng.integers(1 << 60):016x}", rng.integers(VIDEOS), 0.5 + k % 3) for k in range(SAMPLES)]


def made(line, name, video, weight=1.0):
    file = line.video.file.model_copy(update={"sha256": sha256(str(video).encode())})
    fields = {
        "video": line.video.model_copy(update={"file": file}),
        "sample": line.sample.model_copy(update={"id": name, "response": f"ü {name}", "weight": weight}),
        "key": name * 2,
        "token_map": line.prior,
        "coverage": 1 / 3,
    }
    return VlmLine(**dict(line) | fields)


def test_lines_come_back_in_the_order_of_their_ids(mapped, lines):
    found, expected = mapped(lines), sorted(lines, key=lambda line: line.sample.id)
    assert [*found] == expected
    assert found.videos == [line.video.id for line in expected]
    assert found.weights == [line.sample.weight for line in expected]
    assert [*found.take([3, 1, 1])] == [expected[3], expected[1], expected[1]]
    hashes = [sha256(line.sample.id.encode()) for line in expected]
    assert [hashes[index] for index in found.by_hash()] == sorted(hashes)
    twice = [made(lines[0], lines[0].sample.id, video) for video in (2, 1, 3)]
    assert [*mapped(twice)] == twice  # of equal ids in the order that they came in


def test_the_table_is_mapped_and_of_the_text_one_line_is_held(mapped, lines):
    found = mapped(made(lines[0], f"{k:016x}", k) for k in range(2000))
    (where,) = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "lines.npy" in line]
    assert where[1] == "r--s"
    tracemalloc.start()
    count = sum(1 for _ in found)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (count, found._text.stat().st_size > 2**22) == (2000, True)
    assert peak < 2**20


def test_one_line_at_a_time_is_held(tmp_path, lines):
    given, most = [], []

    def passing():
        for line in lines:
            most.append(sum(one() is not None for one in given))
            copied = made(line, line.sample.id, 1)
            given.append(weakref.ref(copied))
            yield copied

    write_lines(tmp_path, passing())
    assert max(most) <= 1


def test_no_space_is_worth_another_try(tmp_path, lines, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(TryAgainError, match=r"no space left while writing lines\.jsonl") as raised:
        write_lines(tmp_path, lines)
    assert "TMPDIR" in raised.value.remedy


# Against lists of lines -----------------------------------------------------------------------------------------------


def listed_split(lines, share, seed):
    """The split of a list."""
    videos = sorted({line.video.id for line in lines}, key=lambda name: sha256(f"{seed}:{name}".encode()))
    out = videos[: math.floor(share * len(videos) + 1e-9)]
    return [line for line in lines if line.video.id not in out], [line for line in lines if line.video.id in out]


def listed_partners(lines, pool, seed):
    """The partners of a list."""
    names = sorted({line.video.id for line in pool})
    cycle = [names[k] for k in np.random.default_rng([seed, 0x5EED]).permutation(len(names)).tolist()]
    found, seen = [], Counter()
    for line in lines:
        own = line.video.id
        place = cycle.index(own) + 1 if own in cycle else int(sha256(own.encode()), 16)
        others = [other for other in pool if other.video.id == cycle[place % len(cycle)]]
        found.append(others[seen[own] % len(others)])
        seen[own] += 1
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_split_and_partners_are_those_of_a_list(mapped, lines, share, seed):
    listed = sorted(lines, key=lambda line: line.sample.id)
    train, held = split(mapped(lines), share, seed)
    listed_train, listed_held = listed_split(listed, share, seed)
    assert ([*train], [*held]) == (listed_train, listed_held)
    assert bool(held) == bool(share)
    for some, expected in ((train, listed_train), (held, listed_held)):
        assert [*partners(some, train, seed)] == listed_partners(expected, listed_train, seed)


def test_a_shuffled_map_is_another_videos(mapped, lines):
    twice = mapped(made(lines[0], f"{k:016x}", k // 2) for k in range(12))
    found = partners(twice, twice, seed=3)
    assert all(one != other for one, other in zip(twice.videos, found.videos, strict=True))
    used, given = (sorted(line.sample.id for line in some) for some in (found, twice))
    assert used == given  # each one's map is used once
    assert [*found] != [*partners(twice, twice, seed=4)]
    train, held = twice.take(range(10)), twice.take([10, 11])
    assert {*partners(held, train, seed=3).videos} < {*train.videos}
    with pytest.raises(ParameterError, match="no other video"):
        partners(held, held, seed=3)


def test_held_out_is_by_video(mapped, lines):
    kept, out = split(mapped(lines), 0.5, seed=4)
    assert not {*kept.videos} & {*out.videos}
    many = mapped(made(lines[0], f"{k:016x}", k) for k in range(100))
    assert len(split(many, 0.29, seed=4)[1]) == 29
    with pytest.raises(ParameterError, match="no training samples"):
        split(many.take([]), 0.1, 1)
