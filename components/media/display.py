"""How a decoded frame is shown: the container's display matrix and the shape of its pixels.

A matrix sends (x, y) to (a x + c y, b x + d y), y down. The eight that turn by quarters and mirror are applied, as the
`ffmpeg` program does; others are refused. Pixels that are not square are made so by the width, as `scale=iw*sar:ih`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation
from jaxtyping import UInt8

from components.media.container import bad

_TURNS = {(1, 0, 0, 1): 0, (0, -1, 1, 0): 90, (-1, 0, 0, -1): 180, (0, 1, -1, 0): 270}
_SLANT = 0.0175  # of the largest entry: one degree, as ffmpeg has it
_MOST_STRETCH = 8


@dataclass(frozen=True)
class Display:
    """What makes a frame upright.

    Attributes:
        width, height: pixels of the shown picture.
        rotation: degrees, counter-clockwise: 0, 90, 180 or 270.
        mirrored: left and right change places, after the rotation.
    """

    width: int
    height: int
    rotation: int
    mirrored: bool


class Screen:
    """Shows the frames of one file. A frame's matrix is looked up once per rotation.

    PyAV 18 keeps a frame whose side data was read until the garbage collector comes.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self._known: dict[float, tuple[int, bool]] = {}

    def display(self, frame: Any, aspect: Fraction | None) -> Display:
        """Return how a frame is shown; `aspect` is a pixel's width by its height, None where the file has none.

        Raises:
            DataError: a display matrix that is no turn by quarters with or without mirroring, or pixels of odd shape.
        """
        rotation, mirrored = self._orientation(frame)
        width, height = _square(frame.width, aspect, self.path), frame.height
        if rotation % 180:
            width, height = height, width
        return Display(width, height, rotation, mirrored)

    def upright(self, frame: Any, aspect: Fraction | None) -> UInt8[np.ndarray, "H W 3"]:
        """Return a frame as it is shown, RGB.

        Raises:
            DataError: as `display`.
        """
        rotation, mirrored = self._orientation(frame)
        width = _square(frame.width, aspect, self.path)
        if width == frame.width:
            picture_HW3 = frame.to_ndarray(format="rgb24")
        else:
            size = {"width": width, "height": frame.height, "interpolation": Interpolation.BICUBIC}
            picture_HW3 = frame.to_ndarray(format="rgb24", **size)
        turned_HW3 = np.rot90(picture_HW3, rotation // 90)
        return np.ascontiguousarray(turned_HW3[:, ::-1] if mirrored else turned_HW3)

    def _orientation(self, frame: Any) -> tuple[int, bool]:
        if (turn := frame.rotation) not in self._known:
            self._known[turn] = _orientation(frame, self.path)
        return self._known[turn]


def _square(width: int, aspect: Fraction | None, path: Path | str) -> int:
    if not aspect or aspect == 1:
        return width
    if not Fraction(1, _MOST_STRETCH) <= aspect <= _MOST_STRETCH:
        raise bad(path, f"sample aspect ratio {aspect.numerator}:{aspect.denominator}", "re-encode with square pixels")
    return max(1, round(width * aspect))


def _orientation(frame: Any, path: Path | str) -> tuple[int, bool]:
    """Return rotation and mirroring by the frame's display matrix."""
    if (found := frame.side_data.get(Type.DISPLAYMATRIX)) is None:
        return 0, False
    a, b, u, c, d, v, *_ = entries = np.frombuffer(bytes(found), dtype=np.int32).tolist()
    largest = max(abs(a), abs(b), abs(c), abs(d))
    signs = [0 if abs(entry) <= _SLANT * largest else int(np.sign(entry)) for entry in (a, b, c, d)]
    mirrored = signs[0] * signs[3] - signs[1] * signs[2] < 0
    turn = (-signs[0], signs[1], -signs[2], signs[3]) if mirrored else tuple(signs)
    if u or v or turn not in _TURNS:
        shown = " ".join(f"{entry / (1 << 16):g}" for entry in entries[:2] + entries[3:5])
        raise bad(path, f"display matrix {shown}, no turn by quarters", "re-encode the clip upright")
    return _TURNS[turn], mirrored
