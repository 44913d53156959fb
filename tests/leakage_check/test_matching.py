"""Copies of a clip are found whatever was done to them, and 200 pairs of other clips, hard ones among them, are not."""

import itertools

import numpy as np
import pytest

from components.leakage_check import fingerprint as prints
from components.leakage_check.matching import Hashes, candidates, compare
from components.media.video import write_mp4
from components.synthetic.scenes import write_set
from tests.leakage_check.made import BITS, fingerprint, ground, letterboxed, movie, rescaled
from tests.media.made import encode


def pairs(first, second):
    """Pairs of places in two lists of fingerprints that share footage, with what they share."""
    found = {}
    for i, j in candidates([one for one, _ in first], [other for other, _ in second], BITS):
        if (match := compare(first[i][0], second[j][0], first[i][1], second[j][1], BITS)) is not None:
            found[i, j] = match
    return found


COPIES = {
    "weak.mp4": lambda frames: (frames, {"crf": 36}),
    "codec.webm": lambda frames: (frames, {"codec": "libvpx-vp9", "b:v": "300k"}),
    "small.mp4": lambda frames: (rescaled(frames, 48, 64), {}),
    "large.mp4": lambda frames: (rescaled(frames, 144, 200), {"crf": 28}),
    "thin.mp4": lambda frames: (frames[::2], {"rate": 12}),  # 4 % slower, too
    "bars.mp4": lambda frames: (letterboxed(frames, 12), {}),
    "cut.mp4": lambda frames: (rescaled(frames[23:61], 60, 80), {"crf": 30}),
    "short.mp4": lambda frames: (frames[41:70], {"crf": 30}),
}


@pytest.fixture(scope="module", params=[0.0, 0.2], ids=["still camera", "panning camera"])
def original(request, tmp_path_factory):
    folder, frames = tmp_path_factory.mktemp("original"), movie(1, 1, 3.0, pan=request.param)
    return frames, fingerprint(encode(folder / "original.mp4", frames))


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found_in_both_directions(original, name, tmp_path):
    frames, whole = original
    changed, options = COPIES[name](frames)
    copy = fingerprint(encode(tmp_path / name, changed, **options))
    found, back = pairs([copy], [whole]), pairs([whole], [copy])
    assert list(found) == list(back) == [(0, 0)]
    start = {"cut.mp4": 23 / 25, "short.mp4": 41 / 25}.get(name, 0.0)
    assert found[0, 0].shift == pytest.approx(start, abs=0.1)
    assert back[0, 0].shift == pytest.approx(-start, abs=0.1)
    assert found[0, 0].seconds == pytest.approx(len(changed) / options.get("rate", 25), abs=0.25)


def test_the_end_of_one_is_the_beginning_of_the_other(tmp_path):
    frames = movie(2, 2, 4.0, pan=0.1)
    one, other = (fingerprint(encode(tmp_path / f"{k}.mp4", frames[k : k + 70])) for k in (0, 30))
    assert pairs([one], [other])[0, 0].seconds == pytest.approx(40 / 25, abs=0.25)


def clean(folder):
    """Two lists of clips of which no two show the same; those at one place differ in what moves alone."""
    length = {"seconds": 1.2}
    ours = [movie(place, place, pan=0.1 * (place % 3), **length) for place in range(10, 14)]
    theirs = [movie(place, place, pan=0.1 * (place % 3), **length) for place in range(20, 22)]
    ours += [movie(30, k, **length) for k in range(4)]  # a room
    theirs += [movie(30, k, **length) for k in range(10, 13)]
    ours += [movie(0, k, flat=(90, 120, 200), **length) for k in range(4)]  # a sky
    theirs += [movie(0, k, flat=(90, 120, 200), **length) for k in range(10, 13)]
    ours += [letterboxed(movie(place, place, **length), 20) for place in (31, 32)]
    theirs += [letterboxed(movie(33, 33, **length), 20)]
    ours += [np.repeat(ground(place, 72, 96)[None].astype(np.uint8), 30, 0) for place in (40, 41)]  # nothing moves
    theirs += [np.repeat(ground(42, 72, 96)[None].astype(np.uint8), 30, 0)]
    ours += [np.full((30, 72, 96, 3), grey, dtype=np.uint8) for grey in (0, 128)]  # nothing is there
    theirs += [np.full((30, 72, 96, 3), grey, dtype=np.uint8) for grey in (2, 130)]
    for name, side in (("ours", ours), ("theirs", theirs)):
        (folder / name).mkdir()
        for k, frames in enumerate(side):
            encode(folder / name / f"{k}.mp4", frames)
    for name, preset, seed in (("ours", "scenes", 1), ("theirs", "scenes", 2), ("theirs", "bench", 3)):
        write_set(folder / f"{name}-{preset}", preset, 4, seed=seed)
    return [[fingerprint(file) for file in sorted(folder.glob(f"{name}*/**/*.mp4"))] for name in ("ours", "theirs")]


def test_no_two_of_200_pairs_of_other_clips_are_the_same(tmp_path):
    ours, theirs = clean(tmp_path)
    assert len(ours) * len(theirs) >= 200
    assert pairs(ours, theirs) == {}
    close = candidates([one for one, _ in ours], [other for other, _ in theirs], BITS)
    assert len(close) >= 12  # hashes alone take the room's clips for one another


def test_pictures_are_found_among_pictures_and_in_a_clip_that_shows_them(tmp_path):
    still, other = (np.repeat(ground(seed, 72, 96)[None].astype(np.uint8), 3, 0) for seed in (1, 2))
    clip = np.concatenate([movie(5, 5, 1.0), still.repeat(9, 0)])
    files = {"a": still[:1], "b": rescaled(still[:1], 40, 50), "c": other[:1], "clip": clip}
    a, b, c, shown = (fingerprint(encode(tmp_path / f"{name}.mp4", frames)) for name, frames in files.items())
    assert set(pairs([a], [b, c, shown])) == {(0, 0), (0, 2)}


def test_what_is_nearly_plain_is_never_the_same():
    faint = np.full((24, 16, 18), 100, dtype=np.uint8)
    faint[:, :, 9:] += 3  # a wall with a shadow
    strong = np.where(faint > 100, 160, faint).astype(np.uint8)
    for pictures, found in ((faint, False), (strong, True)):
        wall = Hashes(np.arange(24) / 12, prints.hashes(pictures))
        assert (compare(wall, wall, pictures, pictures, BITS) is not None) == found


# The parts, against what they stand for -------------------------------------------------------------------------------


def test_candidates_are_those_of_a_naive_count():
    rng = np.random.default_rng(0)
    times, base = np.arange(20) / 12, rng.integers(1, 2**63, (6, 20), dtype=np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (6, 20, 14), dtype=np.uint64)
    noisy = [base[k] ^ np.bitwise_xor.reduce(flips[k, :, : 2 * k + 4], axis=1) for k in range(6)]  # 4 … 14 bits
    first, second = ([Hashes(times, row) for row in side] for side in (base, noisy))

    def near(one, other):
        keys = [int(key) for key in one.key_frames()]
        return 2 * sum(any((key ^ int(h)).bit_count() <= BITS for h in other.hashes_n) for key in keys) >= len(keys)

    both = itertools.product(range(6), range(6))
    wanted = [(i, j) for i, j in both if near(first[i], second[j]) or near(second[j], first[i])]
    assert candidates(first, second, BITS) == wanted
    assert 3 <= len(wanted) < 6


def test_a_hash_bit_says_which_of_two_cells_is_darker():
    picture = np.zeros((1, 16, 18), dtype=np.uint8)
    picture[0, 2:4, 4:6] = 200  # the cell in row 1, column 2: brighter than what is left of it
    (found,) = prints.hashes(picture)
    assert int(found) == 1 << (63 - (8 * 1 + 1))
    assert prints.hashes(picture // 150).tolist() == [0]  # noise


def test_bars_are_dark_and_as_wide_on_both_sides():
    frames = np.full((2, 128, 144), 90, dtype=np.uint8)
    boxed = frames.copy()
    boxed[:, :16] = boxed[:, -17:] = 10
    assert prints.bars(boxed) == (slice(16, 111), slice(0, 144))
    boxed[:, :10] = 90  # dark on one side alone
    assert prints.bars(boxed) == prints.bars(frames) == (slice(0, 128), slice(0, 144))


def test_frames_are_sampled_by_time():
    times = [k / 30 for k in range(90)]
    assert prints.sampled(times, 10, 100) == [3 * k for k in range(30)]
    assert len(prints.sampled(times, 10, 8)) == 8
    assert prints.sampled(times, 10, 8)[-1] == 89
    assert prints.sampled([0.0], 10, 8) == [0]
    assert prints.sampled([0.0, 1.0], 10, 100) == [0, 1]  # a clip slower than the rate


def test_a_frame_is_averaged_over_equal_areas(tmp_path):
    small = prints.held(np.full((200, 310, 3), (255, 0, 0), dtype=np.uint8))
    assert small.shape == (128, 144, 3)
    assert set(np.unique(small)) == {76}
    half = np.zeros((1, 3, 128), dtype=np.uint8).repeat(1, 0)
    half[:, 1:] = 255
    (rows,) = prints.pictures(np.repeat(half, 1, 0))
    assert rows[[0, 5, 6, 15], 0].tolist() == [0, 170, 255, 255]  # row 5 of 16 begins at 15/16 of a pixel
    write_mp4(tmp_path / "x.mp4", np.zeros((2, 16, 16, 3), dtype=np.uint8), 8)
    assert not fingerprint(tmp_path / "x.mp4")[0].key_frames().size
