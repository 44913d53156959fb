"""Frame choice against the rules' own wording, restated naively."""

import numpy as np
import pytest

from components.core.errors import DataError, ParameterError
from components.media.sampling import FrameCounts, choose_frames, spread, usable_frames
from tests.command import python

COUNTS = FrameCounts(step=8, fewest=9)  # CogVideoX


def clock(n, fps):
    return [i / fps for i in range(n)]


@pytest.mark.parametrize(("n", "k"), [(9, 9), (10, 9), (100, 49), (301, 17), (5, 8), (1, 4), (50, 2)])
def test_spread(n, k):
    found = spread(n, k)
    assert (found[0], found[-1]) == (0, n - 1)
    np.testing.assert_array_less(np.abs(np.array(found) - np.linspace(0, n - 1, k)), 0.5 + 1e-9)
    if k <= n:
        assert len(set(found)) == k
    assert spread(n, 1) == [0]


def test_usable_frames_is_the_largest_that_the_model_takes():
    for wanted in range(9, 60):
        for available in range(9, 60):
            expected = max(n for n in range(1, 60, 8) if n <= min(wanted, available))
            assert usable_frames(wanted, available, COUNTS) == expected
    for wanted, available in ((8, 100), (49, 8), (49, 0)):
        with pytest.raises(DataError, match="clip x"):
            usable_frames(wanted, available, COUNTS, "clip x")


def test_another_rule_takes_other_numbers():
    each = FrameCounts(step=1, fewest=2)
    assert [each.largest(n) for n in range(5)] == [0, 0, 2, 3, 4]
    assert [FrameCounts(step=4, fewest=5).largest(n) for n in (4, 5, 8, 9)] == [0, 5, 5, 9]


def test_native_rate_takes_the_nearest_frames():
    times = clock(300, 30)
    assert choose_frames(clock(30, 10), 49, COUNTS) == spread(30, 25)  # unless asked, over the whole clip
    found = choose_frames(times, 17, COUNTS, "native_fps", 8.0)
    assert found == [int(np.argmin(np.abs(np.array(times) - i / 8))) for i in range(17)]
    middle = choose_frames(times, 17, COUNTS, "native_fps", 8.0, "middle")
    assert abs((times[middle[0]] + times[middle[-1]]) / 2 - times[-1] / 2) <= 1 / 8
    assert set(np.diff(middle)) == {3, 4}  # 30 / 8


def test_slow_clip_repeats_no_frame():
    found = choose_frames(clock(40, 4), 17, COUNTS, "native_fps", 8.0)
    assert found == list(range(17))
    assert len(choose_frames(clock(12, 4), 49, COUNTS, "native_fps", 8.0)) == 9


def test_motion_window_holds_the_most_change():
    times = clock(200, 16)
    motion = np.full(200, 0.1)
    motion[120:140] = 5.0
    found = choose_frames(times, 17, COUNTS, "native_fps", 8.0, "motion", motion)
    sums = [motion[2 * s + 1 : 2 * (s + 16) + 1].sum() for s in range(100 - 16)]
    assert motion[found[0] + 1 : found[-1] + 1].sum() == pytest.approx(max(sums))
    assert found[0] == 2 * int(np.argmax(np.round(sums, 9)))  # the earliest of equals
    for bad in (None, motion[:-1]):
        with pytest.raises(ParameterError):
            choose_frames(times, 17, COUNTS, "native_fps", 8.0, "motion", bad)


def test_too_short_names_its_source():
    for sampling, count in (("whole", 8), ("native_fps", 20)):  # 20 frames are only 6 ticks of the model's clock
        with pytest.raises(DataError, match="video 12"):
            choose_frames(clock(count, 30), 49, COUNTS, sampling, source="video 12")


def test_needs_no_torch():
    modules = "components.media.sampling, components.synthetic.scenes, components.media.video"
    python("-c", f"import sys, {modules}; sys.exit('torch' in sys.modules)")
