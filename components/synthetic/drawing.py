"""The synthetic set's pictures: where bodies may go, how they are drawn, and the ground truth of every pixel.

Everything is measured in short sides of the frame (the frame is H/s × W/s with s = min(H, W)), so one scene looks the
same at every resolution. A body is drawn by its signed distance, with edges one pixel soft; square, circle and triangle
of one size have equal areas. Courses are found by rejection, some hundred tries per scene: plain floats, no arrays.
Legend: F frames, H,W pixels; points are (down, right).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

Point = tuple[float, float]  # down, right
Box = tuple[float, float, float, float]  # top, left, bottom, right

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.10, 0.62, 0.16),
    "blue": (0.12, 0.22, 0.85),
    "yellow": (0.92, 0.86, 0.10),
    "purple": (0.56, 0.14, 0.70),
    "white": (0.96, 0.96, 0.96),
}
SHAPES = ("square", "circle", "triangle")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
HALF_SIDE = 0.08  # of the square; all bodies of the set start with its area
TRAVEL = (0.26, 0.38)  # shortest and longest straight course
REACH = 4 / 27**0.25  # half sides from a body's centre to its farthest point: the triangle's corner

_CIRCLE = 2 / math.sqrt(math.pi)  # radius in half sides of the square of equal area
_TRIANGLE = REACH / 2  # its inscribed circle
_NORMALS_YX = ((1.0, 0.0), (-0.5, math.sqrt(0.75)), (-0.5, -math.sqrt(0.75)))  # of the triangle's edges, one corner up


@dataclass(frozen=True)
class Body:
    """An object and its course: `half_side` of the square of equal area; centre, scale and turn (radians) per frame."""

    colour: str
    shape: str
    half_side: float
    centres: Float[np.ndarray, "F 2"]
    scales: Float[np.ndarray, " F"]
    turns: Float[np.ndarray, " F"]

    @property
    def name(self) -> str:
        """As captions call it: "red square"."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Camera:
    """Per frame: how far it has moved (short sides) and its zoom."""

    shifts: Float[np.ndarray, "F 2"]
    zooms: Float[np.ndarray, " F"]


@dataclass(frozen=True)
class Background:
    """A colour, and waves over it, (cycles down, cycles right, phase, amplitude) each; without waves it is plain."""

    colour: tuple[float, float, float]
    waves: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True)
class Scene:
    """What is drawn. `mover` indexes `bodies`; None where only the camera moves."""

    bodies: tuple[Body, ...]
    mover: int | None
    camera: Camera
    background: Background


def body_at(colour: str, shape: str, centres_F2: Float[np.ndarray, "F 2"]) -> Body:
    """Return a body of the set's size that neither grows nor turns."""
    return Body(colour, shape, HALF_SIDE, centres_F2, np.ones(len(centres_F2)), np.zeros(len(centres_F2)))


def still_camera(num_frames: int) -> Camera:
    """Return a camera that does not move."""
    return Camera(np.zeros((num_frames, 2)), np.ones(num_frames))


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
    way = list(DIRECTIONS)[rng.integers(len(DIRECTIONS))]
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


def render(scene: Scene, size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "F H W 3"], UInt8[np.ndarray, "F H W"]]:
    """Draw a scene: RGB frames, and which body each pixel shows (1 + its index, 0 for the background)."""
    camera = scene.camera
    num_frames = len(camera.zooms)
    frames = np.empty((num_frames, *size, 3), dtype=np.uint8)
    ids = np.zeros((num_frames, *size), dtype=np.uint8)
    views = np.column_stack([camera.shifts, camera.zooms])
    for f in range(num_frames):
        if f == 0 or (views[f] != views[f - 1]).any():
            y_HW, x_HW = _world(size, camera, f)
            ground = _paint(scene.background, y_HW, x_HW)
        picture = ground.copy()
        for index, body in enumerate(scene.bodies):
            pixels = min(size) * camera.zooms[f]
            alpha_HW = np.clip(0.5 - pixels * _distance(body, f, y_HW, x_HW), 0.0, 1.0)
            picture += alpha_HW[..., None] * (np.asarray(COLOURS[body.colour]) - picture)
            ids[f][alpha_HW >= 0.5] = index + 1
        frames[f] = np.round(255 * picture.clip(0, 1)).astype(np.uint8)
    return frames, ids


def _world(size: tuple[int, int], camera: Camera, f: int) -> tuple[np.ndarray, np.ndarray]:
    """World coordinates of every pixel's centre."""
    y, x = np.meshgrid(*((np.arange(n) + 0.5) / min(size) for n in size), indexing="ij")
    (height, width), (down, right), zoom = frame_extent(size), camera.shifts[f], camera.zooms[f]
    return (y - height / 2) / zoom + height / 2 + down, (x - width / 2) / zoom + width / 2 + right


def _paint(background: Background, y_HW: np.ndarray, x_HW: np.ndarray) -> np.ndarray:
    picture: np.ndarray = np.ones((*y_HW.shape, 3)) * np.asarray(background.colour)
    for down, right, phase, amplitude in background.waves:
        picture += amplitude * np.sin(2 * math.pi * (down * y_HW + right * x_HW) + phase)[..., None]
    return picture


def _distance(body: Body, f: int, y_HW: np.ndarray, x_HW: np.ndarray) -> np.ndarray:
    """Signed distance to the body's edge, negative inside (exact inside and along edges, which is what is drawn)."""
    unit = body.half_side * float(body.scales[f])
    down, right = (y_HW - body.centres[f, 0]) / unit, (x_HW - body.centres[f, 1]) / unit
    cos, sin = math.cos(body.turns[f]), math.sin(body.turns[f])
    v, u = cos * down - sin * right, sin * down + cos * right
    if body.shape == "circle":
        distance = np.hypot(v, u) - _CIRCLE
    elif body.shape == "square":
        distance = np.maximum(np.abs(v), np.abs(u)) - 1
    else:
        distance = np.max([ny * v + nx * u for ny, nx in _NORMALS_YX], axis=0) - _TRIANGLE
    scaled: np.ndarray = unit * distance
    return scaled
