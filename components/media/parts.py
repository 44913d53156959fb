"""A part of a video, given in seconds: which of its frames, at which times of their own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from components.core.errors import DataError
from components.core.records import Part

_ROUNDING = 0.001  # seconds; a bound that is a frame's own time is rounded in many ways
_BEYOND = 1.0  # seconds that a part may end behind its video: bounds are often whole seconds


class Seconds(NamedTuple):
    """From `start` to before `end`, in seconds from the file's first frame."""

    start: float
    end: float


def cut(times: Sequence[float], duration: float, wanted: Seconds, source: str) -> tuple[Part, list[float], float]:
    """Return the frames that are shown from `start` to before `end`, their times from the first, and their duration.

    `times` and `duration` are the file's, in seconds.

    Raises:
        DataError: the part is empty, or ends more than a second behind the video.
    """
    first, end = (bisect_left(times, bound - _ROUNDING) for bound in wanted)
    if first >= end or wanted.end > duration + _BEYOND:
        problem = f"no part from {wanted.start:g} to {wanted.end:g} s in a video of {duration:.2f} s"
        raise DataError(problem, source=source, remedy="correct the segment, or replace the video by the whole one")
    offset, behind = times[first], times[end] if end < len(times) else duration
    own = [time - offset for time in times[first:end]]
    return Part(first=first, count=end - first, offset=offset), own, behind - offset
