"""The bench's six kinds of question, named as MotionBench names them, and the clips that answer them.

Every kind is an act: what the mover (or the camera) does, one right answer and at least three wrong ones. Letters are
balanced within each kind, so that an answer by position or by a text's frequency stays at chance. Legend as in
`drawing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from components.synthetic import drawing
from components.synthetic.drawing import COLOURS, DIRECTIONS, SHAPES, TRAVEL, Background, Body, Camera, Scene

_WAYS = [*(f"It moves {way}" for way in DIRECTIONS), "It spins", "It grows", "It shrinks"]
_CORNERS = {
    f"In the {v} {h}": (y, x) for y, v in ((-1, "upper"), (1, "lower")) for x, h in ((-1, "left"), (1, "right"))
}
_COUNTS = ["1", "2", "3", "4"]
_NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
_TURNS = {f"It {'pans' if way in ('left', 'right') else 'tilts'} {way}": step for way, step in DIRECTIONS.items()}
_ZOOMS = {"It zooms in": 0.6, "It zooms out": -0.35, "It stands still": 0.0}
_ORDERS = [", ".join(ways) for ways in permutations(DIRECTIONS, 3)]
# all texts that options have
ANSWERS = (*_WAYS, *_CORNERS, *_ORDERS, *_COUNTS, *(f"The {name}" for name in _NAMES), *_TURNS, *_ZOOMS)


@dataclass(frozen=True)
class Question:
    """A multiple-choice question; `answer` is the letter of the right option."""

    kind: str
    text: str
    options: tuple[str, ...]
    answer: str

    @property
    def right(self) -> str:
        """The text of the right option."""
        return self.options["ABCD".index(self.answer)]

    def rendered(self) -> str:
        """As MotionBench writes it: the options below the question, one per line."""
        return "\n".join([self.text, *map("{}. {}".format, "ABCD", self.options)])


@dataclass(frozen=True)
class _Act:
    """What is asked, and what happens: the mover's offsets from its start, its growth and turn by the end, or a camera.

    `answers` are all that are offered, the right one among them.
    """

    text: str
    right: str
    answers: Sequence[str]
    offsets_F2: np.ndarray
    growth: float = 0.0
    turn: float = 0.0
    camera: Camera | None = None
    from_centre: bool = False


def questioned(
    rng: np.random.Generator, index: int, extent: tuple[float, float], num_frames: int
) -> tuple[Scene, Question]:
    """Item `index` of a bench: types take turns, and the right letter goes round within each type."""
    kind = QUESTION_TYPES[index % len(_ACTS)]
    letter = (index // len(_ACTS) + index % len(_ACTS)) % 4
    act = _ACTS[kind](rng, np.linspace(0, 1, num_frames))
    bodies = _placed(rng, extent, act)
    if kind == "Motion-related Objects":
        act = _named(rng, act, [body.name for body in bodies])
    options = [str(text) for text in rng.permutation([text for text in act.answers if text != act.right])[:3]]
    options.insert(letter, act.right)
    order = [int(i) for i in rng.permutation(3)]  # a body's number says nothing
    mover = None if kind == "Camera Motion" else order.index(0)
    camera = act.camera or drawing.still_camera(num_frames)
    scene = Scene(tuple(bodies[i] for i in order), mover, camera, _texture(rng))
    return scene, Question(kind, act.text, tuple(options), "ABCD"[letter])


def _named(rng: np.random.Generator, act: _Act, names: list[str]) -> _Act:
    """Options that name the bodies, the mover's first, and one that is not there."""
    absent = [name for name in _NAMES if name not in names]
    answers = [f"The {name}" for name in (*names, rng.choice(absent))]
    return replace(act, right=answers[0], answers=answers)


def _placed(rng: np.random.Generator, extent: tuple[float, float], act: _Act) -> tuple[Body, ...]:
    """Place the mover first, then two standing bodies clear of its way and of each other."""
    colours = [str(colour) for colour in rng.permutation(list(COLOURS))[:3]]
    shapes = [str(shape) for shape in rng.choice(SHAPES, 3)]
    if act.turn and shapes[0] == "circle":
        shapes[0] = "square"  # a circle's turn cannot be seen
    time_F = np.linspace(0, 1, len(act.offsets_F2))
    scales = 1 + act.growth * time_F
    while True:
        centre = (extent[0] / 2, extent[1] / 2)
        start = centre if act.from_centre else drawing.place(rng, extent, act.offsets_F2.tolist())
        centres = np.asarray(start) + act.offsets_F2
        others = [drawing.place(rng, extent, [(0.0, 0.0)]) for _ in range(2)]
        boxes = [drawing.swept(centres.tolist(), float(scales.max())), *(drawing.swept([other]) for other in others)]
        top, left, bottom, right = boxes[0]
        within = min(top, left) >= 0 and bottom <= extent[0] and right <= extent[1]
        if within and not any(drawing.touch(boxes[i], boxes[j]) for i in range(3) for j in range(i)):
            break
    mover = replace(drawing.body_at(colours[0], shapes[0], centres), scales=scales, turns=act.turn * time_F)
    still = (drawing.body_at(colours[i + 1], shapes[i + 1], np.tile(others[i], (len(time_F), 1))) for i in range(2))
    return (mover, *still)


def _texture(rng: np.random.Generator) -> Background:
    red, green, blue = (rng.uniform(0.35, 0.6) + rng.uniform(-0.06, 0.06, 3)).tolist()
    down, right = rng.integers(1, 5, 4).tolist(), rng.integers(-4, 5, 4).tolist()
    phase, amplitude = rng.uniform(0, 2 * np.pi, 4).tolist(), rng.uniform(0.02, 0.06, 4).tolist()
    return Background((red, green, blue), tuple(zip(down, right, phase, amplitude, strict=True)))


def _recognition(rng: np.random.Generator, time_F: np.ndarray) -> _Act:
    """One of seven ways to move."""
    right = str(rng.choice(_WAYS))
    offsets_F2 = time_F[:, None] * rng.uniform(*TRAVEL) * np.asarray(DIRECTIONS.get(right.split()[-1], (0, 0)))
    growth, turn = {"It grows": 0.8, "It shrinks": -0.5}.get(right, 0.0), 2.2 * (right == "It spins")
    return _Act("What does the moving object do?", right, _WAYS, offsets_F2, growth, turn)


def _location(rng: np.random.Generator, time_F: np.ndarray) -> _Act:
    """From the centre into a corner."""
    right = str(rng.choice(list(_CORNERS)))
    offsets_F2 = time_F[:, None] * rng.uniform(0.22, 0.32) * np.asarray(_CORNERS[right])
    text = "Where does the object that starts in the centre end up?"
    return _Act(text, right, list(_CORNERS), offsets_F2, from_centre=True)


def _order(rng: np.random.Generator, time_F: np.ndarray) -> _Act:
    """Three directions one after the other; the options are orders of the same three."""
    ways = [str(way) for way in rng.permutation(list(DIRECTIONS))[:3]]
    orders = [", ".join([ways[i], ways[j], ways[3 - i - j]]) for i in range(3) for j in range(3) if i != j]
    corners_42 = np.concatenate([np.zeros((1, 2)), np.cumsum([DIRECTIONS[way] for way in ways], axis=0)]) * 0.22
    legs_F = np.linspace(0, 3, len(time_F))
    offsets_F2 = np.stack([np.interp(legs_F, np.arange(4), corners_42[:, axis]) for axis in range(2)], axis=1)
    return _Act("In which order does the object move?", ", ".join(ways), orders, offsets_F2)


def _repetition(rng: np.random.Generator, time_F: np.ndarray) -> _Act:
    """One to four jumps."""
    count = int(rng.integers(1, 1 + len(_COUNTS)))
    height_F = 0.3 * np.abs(np.sin(np.pi * count * time_F))
    offsets_F2 = np.stack([-height_F, np.zeros(len(time_F))], axis=1)
    return _Act("How many times does the object jump?", str(count), _COUNTS, offsets_F2)


def _objects(rng: np.random.Generator, time_F: np.ndarray) -> _Act:
    """Which object moves; the options are filled in when the bodies are known."""
    way = np.asarray(list(DIRECTIONS.values())[rng.integers(4)])
    return _Act("Which object moves?", "", (), time_F[:, None] * rng.uniform(*TRAVEL) * way)


def _camera(rng: np.random.Generator, time_F: np.ndarray) -> _Act:
    """Let the camera move, and nothing else."""
    right = str(rng.choice([*_TURNS, *_ZOOMS]))
    zooms_F = 1 + _ZOOMS.get(right, 0.0) * time_F
    camera = Camera(time_F[:, None] * 0.35 * np.asarray(_TURNS.get(right, (0, 0))), zooms_F)
    still_F2 = np.zeros((len(time_F), 2))
    return _Act("How does the camera move?", right, [*_TURNS, *_ZOOMS], still_F2, camera=camera)


_ACTS: dict[str, Callable[[np.random.Generator, np.ndarray], _Act]] = {
    "Motion Recognition": _recognition,
    "Location-related Motion": _location,
    "Action Order": _order,
    "Repetition Count": _repetition,
    "Motion-related Objects": _objects,
    "Camera Motion": _camera,
}
QUESTION_TYPES = tuple(_ACTS)
