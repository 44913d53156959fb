"""Frames by key frames against frames from the start, and an AVI's frames against their place in the file."""

from dataclasses import replace

import av
import numpy as np
import pytest

from components.core.errors import DataError
from components.media import seeking
from components.media.video import probe, read_frames
from tests.media.made import VARIANTS, encode, moving, spoil

LISTS = ([0, 40, 79], [39], [79], [11, 12, 13, 25, 60], [30, 5, 30, 2], range(0, 80, 9), [24, 48, 72], [23, 46, 71])
FROM_START = {name for name in VARIANTS if "reordered" in name} | {"mpeg2.mpg", "wmv2.wmv", "picture.gif", "prores.mov"}
LONG = {"plain.mp4", "lossless.mp4"}  # one group of pictures


@pytest.mark.parametrize("name", VARIANTS)
def test_sought_frames_are_those_of_decoding_from_the_start(name, tmp_path, seeks):
    path = encode(tmp_path / name, moving(80), **VARIANTS[name])
    info, whole = probe(path), read_frames(path, range(80))
    assert not seeks
    for indices in LISTS:
        assert np.array_equal(read_frames(path, indices, info), whole[list(indices)]), indices
    assert bool(seeks) == (name not in FROM_START | LONG)


@pytest.mark.parametrize("name", ["reordered.avi", "reordered-short.avi", "mpeg4-reordered.avi"])
def test_avi_with_reordered_frames_has_order_and_rate(name, tmp_path):
    """libav guesses times from the order of coding; its decoder gives the order of presentation."""
    frames = moving(75)
    path = encode(tmp_path / name, frames, **VARIANTS[name])
    with av.open(str(path)) as container:
        guessed = [frame.pts for frame in container.decode(video=0)]
        container.seek(0)
    info = probe(path)
    assert guessed != sorted(guessed) or guessed[0] != 0
    assert info.times == tuple(index / 25 for index in range(75))
    assert info.duration == pytest.approx(3)
    found = read_frames(path, range(75), info).astype(int)
    distance = np.array([[np.abs(one - other).mean() for other in frames[:, ::4, ::2]] for one in found[:, ::4, ::2]])
    assert distance.argmin(axis=1).tolist() == list(range(75))


def test_times_that_do_not_fit_are_read_from_the_start(tmp_path):
    path = encode(tmp_path / "clip.mp4", moving(60), g=10)
    info, whole = probe(path), read_frames(path, range(60))
    shifted = replace(info, times=tuple(time + 0.004 * (k > 20) for k, time in enumerate(info.times)))
    assert np.array_equal(read_frames(path, [5, 19, 45], shifted), whole[[5, 19, 45]])
    with pytest.raises(DataError, match="frame 60 was asked for, the video has 60"):
        read_frames(path, [0, 60], info)


def test_damaged_clips_are_read_from_the_start(tmp_path, seeks):
    path = spoil(encode(tmp_path / "clip.mp4", moving(60), g=10, bf=0), 13)
    info = probe(path)
    assert info.corrupt
    assert np.array_equal(read_frames(path, [5, 45], info), read_frames(path, range(60))[[5, 45]])
    assert not seeks


def test_few_frames_are_decoded(tmp_path, monkeypatch):
    path = encode(tmp_path / "clip.mp4", moving(200), g=20, bf=2)
    info, decoded, step = probe(path), [], seeking._Walk._step
    monkeypatch.setattr(seeking._Walk, "_step", lambda walk, frame: decoded.append(1) or step(walk, frame))
    wanted = [45, 105, 165]
    read_frames(path, wanted, info)
    assert len(decoded) == sum(index % 20 for index in wanted)


def test_a_resize_is_applied_to_each_frame_and_sizes_are_checked(tmp_path):
    path = encode(tmp_path / "clip.mp4", moving(30), g=10)
    info, whole = probe(path), read_frames(path, range(30))
    small = read_frames(path, [20, 3, 20], info, lambda picture_HW3: picture_HW3[::2, ::4])
    assert np.array_equal(small, whole[[20, 3, 20], ::2, ::4])
    with pytest.raises(DataError, match="frames of 160 × 96 pixels, 96 × 160 in the manifest"):
        read_frames(path, [0], replace(info, width=96, height=160))
