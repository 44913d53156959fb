"""Parts of a video: which frames, and that reading one is reading those frames of the whole."""

import numpy as np
import pytest

from components.core.errors import DataError
from components.core.records import Clip, Part, Ref, Video
from components.media import seeking
from components.media.parts import Seconds, cut
from components.media.video import iterate_frames, motion_profile, probe, read_frames
from tests.media.made import VARIANTS, encode, moving, spoil

REF = Ref(path="videos/x", sha256="a" * 64, bytes=1, task="dataset_import")
TIMES = [index / 25 for index in range(100)]


def part_of(path, info, start, end):
    part, times, duration = cut(info.times, info.duration, Seconds(start, end), str(path))
    size = {"width": info.width, "height": info.height, "rotation": 0, "corrupt": info.corrupt}
    return Video(file=REF, part=part, times=times, duration=duration, **size)


@pytest.mark.parametrize(
    ("seconds", "first", "count"),
    [((0, 4), 0, 100), ((1, 2), 25, 25), ((1.01, 1.99), 26, 24), ((3.96, 4.0), 99, 1), ((0.4, 0.44), 10, 1)],
)
def test_frames_are_those_shown_from_start_to_before_end(seconds, first, count):
    """Against the definition, frame by frame."""
    part, times, duration = cut(TIMES, 4.0, Seconds(*seconds), "clip")
    shown = [index for index, time in enumerate(TIMES) if seconds[0] - 1e-9 <= time < seconds[1] - 1e-9]
    assert (part.first, part.count) == (first, count) == (shown[0], len(shown))
    assert times == [TIMES[index] - TIMES[first] for index in shown]
    assert part.offset == TIMES[first]
    assert duration == pytest.approx(count / 25)


def test_bounds_in_frames_at_fifteen_per_second_are_indices_whatever_the_time_base():
    for start in (0.0, 0.067):
        ticks = [round((index / 15 + start) * 90000) for index in range(600)]
        times = [tick / 90000 - ticks[0] / 90000 for tick in ticks]
        for first, end in ((18, 166), (1, 2), (448, 599)):
            part, _, _ = cut(times, 40.0, Seconds(first / 15, end / 15), "clip")
            assert (part.first, part.count) == (first, end - first)


@pytest.mark.parametrize("seconds", [(4, 5), (3.99, 3.995), (2, 5.5), (648, 658)])
def test_a_part_that_is_not_there(seconds):
    with pytest.raises(DataError, match=r"no part from .* s in a video of 4.00 s"):
        cut(TIMES, 4.0, Seconds(*seconds), "clip")
    assert cut(TIMES, 4.0, Seconds(3, 4.9), "clip")[0].count == 25  # bounds are often whole seconds


def test_parts_of_one_file_are_clips_of_their_own():
    parts = [Part(first=0, count=5, offset=0.0), Part(first=5, count=5, offset=0.2), Part(first=0, count=6, offset=0.0)]
    size = {"width": 8, "height": 8, "rotation": 0, "duration": 1.0, "times": [0.0]}
    whole, *own = (Video(file=REF, part=part, **size) for part in (None, *parts))
    assert whole.id == REF.sha256
    assert len({clip.id for clip in (whole, *own)}) == 4
    assert all(len(clip.id) == 64 and int(clip.id, 16) for clip in own)
    assert Video.model_validate_json(own[1].model_dump_json()) == own[1]
    assert "part" not in whole.model_dump()


@pytest.mark.parametrize("name", VARIANTS)
def test_reading_a_part_is_reading_those_frames_of_the_whole(name, tmp_path):
    path = encode(tmp_path / name, moving(80), **VARIANTS[name])
    info, whole = probe(path), read_frames(path, range(80))
    for start, end in ((0.0, 1.0), (1.3, 2.4)):
        clip = part_of(path, info, start, end)
        first, count = clip.part.first, clip.part.count
        for indices in (range(count), [count // 2, 1, count // 2]):
            wanted = [first + index for index in indices]
            assert np.array_equal(read_frames(path, indices, clip), whole[wanted]), (start, list(indices))
    assert np.array_equal(np.stack(list(iterate_frames(path, clip.part))), whole[first : first + count])
    assert np.allclose(motion_profile(path, clip.part)[1:], motion_profile(path)[first + 1 : first + count])


def test_a_part_is_read_from_the_key_frame_before_it(tmp_path, monkeypatch, seeks):
    path = encode(tmp_path / "clip.mp4", moving(400, 32, 32), g=20, bf=2, sc_threshold=0)
    info, decoded, step = probe(path), [], seeking._Walk._step
    monkeypatch.setattr(seeking._Walk, "_step", lambda walk, frame: decoded.append(1) or step(walk, frame))
    clip = part_of(path, info, 305 / 25, 345 / 25)
    read_frames(path, [0, 39], clip)
    assert seeks == [0, 39]
    assert len(decoded) == 5 + 4  # 300 → 305, 340 → 344


def test_without_times_that_fit_and_with_damage_parts_are_read_from_the_start(tmp_path, seeks):
    path = encode(tmp_path / "clip.mp4", moving(80), g=10, bf=0)
    info, whole = probe(path), read_frames(path, range(80))
    clip = part_of(path, info, 1.6, 2.4)
    shifted = clip.model_copy(update={"times": [time + 0.003 * (k > 5) for k, time in enumerate(clip.times)]})
    assert np.array_equal(read_frames(path, [2, 10], shifted), whole[[42, 50]])
    without = Clip(**clip.model_dump(exclude={"times"}))
    seeks.clear()
    assert np.array_equal(read_frames(path, [2, 10], without), whole[[42, 50]])
    spoil(path, 13)
    info = probe(path)
    damaged = part_of(path, info, 1.6, 2.4)
    assert np.array_equal(read_frames(path, [2, 10], damaged), read_frames(path, range(80))[[42, 50]])
    assert not seeks
