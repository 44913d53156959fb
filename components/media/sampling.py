"""Which frames of a clip the video model sees (decision `sampling`), and frames spread evenly over a clip.

Indices count frames in presentation order; times are seconds from the first frame. No torch here: declarations of steps
import this.
Legend: F frames of the clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from components.core.errors import DataError, ParameterError
from components.core.records import Video
from components.media.choices import Sampling, Window


@dataclass(frozen=True)
class FrameCounts:
    """Numbers of frames that a video model encodes and decodes: `step`·k + 1, and at least `fewest`."""

    step: int
    fewest: int

    def largest(self, frames: int) -> int:
        """Return the largest such number ≤ `frames`, 0 where there is none."""
        return (frames - 1) // self.step * self.step + 1 if frames >= self.fewest else 0


def refuse_image(video: Video) -> None:
    """Raise a DataError for an image: where a motion prior is made or learned from, a clip has to move."""
    if video.kind == "image":
        remedy = "leave images out of the training sources; a benchmark may ask about them"
        raise DataError(f"an image has no motion: {video.called}", source=f"image {video.called}", remedy=remedy)


def spread(n_available: int, n: int) -> list[int]:
    """Return `n` indices evenly over the frames, both ends included (linspace, halves up); repeats if n is larger."""
    if n == 1:
        return [0]
    return [(2 * i * (n_available - 1) + n - 1) // (2 * (n - 1)) for i in range(n)]


def usable_frames(wanted: int, available: int, counts: FrameCounts, source: str = "the clip") -> int:
    """Return the largest number of frames ≤ min(wanted, available) that the video model takes.

    Raises:
        DataError: fewer than it takes.
    """
    frames = min(wanted, available)
    if not (count := counts.largest(frames)):
        problem = f"{frames} usable frames, at least {counts.fewest} are needed"
        raise DataError(problem, source=source, remedy="leave the clip out, or raise num_frames")
    return count


def choose_frames(
    times: Sequence[float],
    num_frames: int,
    counts: FrameCounts,
    sampling: Sampling = "whole",
    native_fps: float = 8.0,
    window: Window = "first",
    motion: Float[np.ndarray, " F"] | None = None,
    source: str = "the clip",
) -> list[int]:
    """Return indices of the frames the video model sees (decision `sampling`), one of `counts` many.

    `whole` spreads them over the clip. `native_fps` takes a window at that many frames a second; where the clip is
    slower, its own frames are taken as they come, as repeating a frame would show a movement that stops and goes.
    `motion` (change of each frame from the one before, `video.motion_profile`) places the window where most changes.

    Raises:
        DataError: fewer than `counts.fewest` frames.
        ParameterError: `window="motion"` without one value of `motion` a frame.
    """
    if sampling == "whole":
        return spread(len(times), usable_frames(num_frames, len(times), counts, source))
    track = _at_rate(times, native_fps)
    count = usable_frames(num_frames, len(track), counts, source)
    spare = len(track) - count
    start = {"first": 0, "middle": spare // 2}.get(window)
    if start is None:
        if motion is None or len(motion) != len(times):
            problem = "window 'motion' needs a value for every frame"
            raise ParameterError(problem, source=source, remedy="give motion_profile(…)")
        change = np.cumsum(np.asarray(motion, dtype=np.float64))[track]
        start = int(np.argmax(change[count - 1 :] - change[: spare + 1]))
    return track[start : start + count]


def _at_rate(times: Sequence[float], fps: float) -> list[int]:
    """Return the frame nearest to each tick of a clock of `fps`, each frame once."""
    stamps = np.asarray(times, dtype=np.float64)
    ticks = np.arange(math.floor((stamps[-1] - stamps[0]) * fps + 1e-6) + 1) / fps + stamps[0]
    right = np.searchsorted(stamps, ticks).clip(0, len(stamps) - 1)
    left = (right - 1).clip(0)
    nearest = np.where(ticks - stamps[left] <= stamps[right] - ticks, left, right)
    return [int(index) for index in np.unique(nearest)]
