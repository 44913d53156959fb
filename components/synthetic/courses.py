"""Where bodies of the synthetic set may go: straight courses inside the frame that do not meet.

Courses are found by rejection, some hundred tries a scene of a few numbers each: plain floats here, no arrays.
Points are (down, right) in short sides of the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]  # down, right
Box = tuple[float, float, float, float]  # top, left, bottom, right

DIRECTIONS: dict[str, tuple[int, int]] = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
HALF_SIDE = 0.08  # of the square; all bodies of the set start with its area
TRAVEL = (0.26, 0.38)  # shortest and longest straight course
REACH = 4 / 27**0.25  # half sides from a body's centre to its farthest point: the triangle's corner
_WAYS = tuple(DIRECTIONS)


@dataclass(frozen=True)
class Course:
    """A straight way through the frame."""

    begin: Point
    end: Point
    way: str


def courses_apart(rng: np.random.Generator, extent: tuple[float, float]) -> list[Course]:
    """Draw three courses whose swept boxes do not touch.

    A clash begins all three anew: redrawing one alone would favour the first.
    """
    while True:
        courses: list[Course] = []
        boxes: list[Box] = []
        while len(courses) < 3:
            course = _course(rng, extent)
            box = swept((course.begin, course.end))
            if any(touch(box, other) for other in boxes):
                break
            courses.append(course)
            boxes.append(box)
        else:
            return courses


def _course(rng: np.random.Generator, extent: tuple[float, float]) -> Course:
    way = _WAYS[rng.integers(len(_WAYS))]
    travel = float(rng.uniform(*TRAVEL))
    down, right = (travel * step for step in DIRECTIONS[way])
    begin = place(rng, extent, [(0.0, 0.0), (down, right)])
    return Course(begin, (begin[0] + down, begin[1] + right), way)


def place(rng: np.random.Generator, extent: tuple[float, float], offsets: Sequence[Sequence[float]]) -> Point:
    """Return a random start from which a body at all `offsets` stays inside a frame of `extent`."""
    margin = REACH * HALF_SIDE
    start = []
    for side, drawn, along in zip(extent, rng.uniform(size=2).tolist(), zip(*offsets, strict=True), strict=True):
        low, high = margin - min(along), side - margin - max(along)
        start.append(low + drawn * (high - low))
    return start[0], start[1]


def swept(centres: Sequence[Sequence[float]], scale: float = 1.0) -> Box:
    """Return the box that a body at these centres can cover."""
    margin = REACH * HALF_SIDE * scale
    downs, rights = zip(*centres, strict=True)
    return min(downs) - margin, min(rights) - margin, max(downs) + margin, max(rights) + margin


def touch(one: Box, other: Box) -> bool:
    """Whether two boxes overlap."""
    return one[0] < other[2] and one[1] < other[3] and other[0] < one[2] and other[1] < one[3]


def frame_extent(size: tuple[int, int]) -> tuple[float, float]:
    """Height and width of a frame of `size` (pixels) in short sides."""
    return size[0] / min(size), size[1] / min(size)
