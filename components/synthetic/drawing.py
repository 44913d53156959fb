"""Drawing of the synthetic set: bodies over a background, seen by a camera, with the ground truth of every pixel.

Everything is measured in short sides of the frame (the frame is H/s × W/s with s = min(H, W)), so one scene looks the
same at every resolution. A body is drawn by its signed distance, with edges one pixel soft; square, circle and triangle
of one size have equal areas.
Legend: F frames, H,W pixels, N places; points are (down, right).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from components.synthetic.courses import HALF_SIDE, REACH, frame_extent

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.10, 0.62, 0.16),
    "blue": (0.12, 0.22, 0.85),
    "yellow": (0.92, 0.86, 0.10),
    "purple": (0.56, 0.14, 0.70),
    "white": (0.96, 0.96, 0.96),
}
SHAPES = ("square", "circle", "triangle")

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
    (height, width), (down, right) = frame_extent(size), camera.shifts[f]
    zoom = camera.zooms[f]
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
