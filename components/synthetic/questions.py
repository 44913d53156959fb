"""The bench's six kinds of question, named as MotionBench names them, and the clips that answer them.

Every kind is an act: what the mover (or the camera) does, one right answer and at least three wrong ones. Letters are
balanced within each kind, so that an answer by position or by a text's frequency stays at chance. Legend as in
`drawing.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from components.synthetic.courses import DIRECTIONS, TRAVEL, place, swept, touch
from components.synthetic.drawing import COLOURS, SHAPES, Background, Body, Camera, Scene, body_at, still_camera


@dataclass(frozen=True)
class Question:
    """A multiple-choice question; `answer` is the letter of the right option."""

    kind: str
    text: str
    options: tuple[str, ...]
    answer: str

    def rendered(self) -> str:
        """As MotionBench writes it: the options below the question, one a line."""
        return "\n".join(
            [self.text, *(f"{letter}. {option}" for letter, option in zip("ABCDEF", self.options, strict=False))]
        )


@dataclass(frozen=True)
class _Act:
    """What happens in a clip, by the mover (offsets from its start, scales, turns) or the camera, and what is asked."""

    text: str
    right: str
    wrong: tuple[str, ...]
    offsets: np.ndarray
    scales: np.ndarray
    turns: np.ndarray
    camera: Camera
    from_centre: bool = False


def questioned(
    rng: np.random.Generator, index: int, extent: tuple[float, float], num_frames: int
) -> tuple[Scene, Question]:
    """Item `index` of a bench: types take turns, and the right letter goes round within each type."""
    kind = QUESTION_TYPES[index % len(_ACTS)]
    letter = (index // len(_ACTS) + index % len(_ACTS)) % 4
    act = _ACTS[kind](rng, num_frames)
    bodies = _placed(rng, extent, act)
    if kind == "Motion-related Objects":
        act = _named(rng, act, [body.name for body in bodies])
    options = [str(text) for text in rng.permutation(list(act.wrong))[:3]]
    options.insert(letter, act.right)
    order = [int(i) for i in rng.permutation(3)]  # a body's number says nothing
    mover = None if kind == "Camera Motion" else order.index(0)
    scene = Scene(tuple(bodies[i] for i in order), mover, act.camera, _texture(rng))
    return scene, Question(kind, act.text, tuple(options), "ABCD"[letter])


def _named(rng: np.random.Generator, act: _Act, names: list[str]) -> _Act:
    """Options that name the bodies, the mover's first, and one that is not there."""
    absent = [name for name in (f"{colour} {shape}" for colour in COLOURS for shape in SHAPES) if name not in names]
    return replace(
        act, right=f"The {names[0]}", wrong=(f"The {names[1]}", f"The {names[2]}", f"The {rng.choice(absent)}")
    )


def _placed(rng: np.random.Generator, extent: tuple[float, float], act: _Act) -> tuple[Body, ...]:
    """Place the mover first, then two standing bodies clear of its way and of each other."""
    colours = [str(colour) for colour in rng.permutation(list(COLOURS))[:3]]
    shapes = [str(shape) for shape in rng.choice(SHAPES, 3)]
    if act.turns.any() and shapes[0] == "circle":
        shapes[0] = "square"  # a circle's turn cannot be seen
    largest = float(act.scales.max())
    middle = (extent[0] / 2, extent[1] / 2)
    while True:
        start = middle if act.from_centre else place(rng, extent, act.offsets.tolist())
        others = [place(rng, extent, [(0.0, 0.0)]) for _ in range(2)]
        boxes = [swept((np.asarray(start) + act.offsets).tolist(), largest), *(swept([other]) for other in others)]
        top, left, bottom, right = boxes[0]
        within = min(top, left) >= 0 and bottom <= extent[0] and right <= extent[1]
        if within and not any(touch(boxes[i], boxes[j]) for i in range(3) for j in range(i)):
            break
    mover = replace(body_at(colours[0], shapes[0], np.asarray(start) + act.offsets), scales=act.scales, turns=act.turns)
    still = (body_at(colours[i + 1], shapes[i + 1], np.tile(others[i], (len(act.scales), 1))) for i in range(2))
    return (mover, *still)


def _texture(rng: np.random.Generator) -> Background:
    colour = rng.uniform(0.35, 0.6) + rng.uniform(-0.06, 0.06, 3)
    down, right, phase, amplitude = (
        rng.integers(1, 5, 4),
        rng.integers(-4, 5, 4),
        rng.uniform(0, 2 * np.pi, 4),
        rng.uniform(0.02, 0.06, 4),
    )
    waves = tuple((float(down[k]), float(right[k]), float(phase[k]), float(amplitude[k])) for k in range(4))
    return Background((float(colour[0]), float(colour[1]), float(colour[2])), waves)


def _act(text: str, right: str, wrong: tuple[str, ...] | list[str], offsets_F2: np.ndarray) -> _Act:
    num_frames = len(offsets_F2)
    return _Act(
        text, right, tuple(wrong), offsets_F2, np.ones(num_frames), np.zeros(num_frames), still_camera(num_frames)
    )


def _others(chosen: str, choices: list[str]) -> list[str]:
    return [choice for choice in choices if choice != chosen]


def _recognition(rng: np.random.Generator, num_frames: int) -> _Act:
    """One of seven ways to move."""
    time_F = np.linspace(0, 1, num_frames)
    ways = [f"It moves {way}" for way in DIRECTIONS] + ["It spins", "It grows", "It shrinks"]
    right = str(rng.choice(ways))
    way = DIRECTIONS.get(right.split()[-1], (0, 0))
    act = _act(
        "What does the moving object do?",
        right,
        _others(right, ways),
        time_F[:, None] * rng.uniform(*TRAVEL) * np.asarray(way),
    )
    change = {"It grows": 0.8, "It shrinks": -0.5}.get(right, 0.0)
    return replace(act, scales=1 + change * time_F, turns=(2.2 * time_F if right == "It spins" else 0 * time_F))


def _location(rng: np.random.Generator, num_frames: int) -> _Act:
    """From the centre into a corner."""
    corners = {
        f"In the {v} {h}": (dy, dx) for v, dy in (("upper", -1), ("lower", 1)) for h, dx in (("left", -1), ("right", 1))
    }
    right = str(rng.choice(list(corners)))
    offsets_F2 = np.linspace(0, 1, num_frames)[:, None] * rng.uniform(0.22, 0.32) * np.asarray(corners[right])
    act = _act(
        "Where does the object that starts in the centre end up?", right, _others(right, list(corners)), offsets_F2
    )
    return replace(act, from_centre=True)


def _order(rng: np.random.Generator, num_frames: int) -> _Act:
    """Three directions one after the other; the options are orders of the same three."""
    ways = [str(way) for way in rng.permutation(list(DIRECTIONS))[:3]]
    orders = [", ".join([ways[i], ways[j], ways[3 - i - j]]) for i in range(3) for j in range(3) if i != j]
    corners_42 = np.concatenate([np.zeros((1, 2)), np.cumsum([DIRECTIONS[way] for way in ways], axis=0)]) * 0.22
    time_F = np.linspace(0, 3, num_frames)
    offsets_F2 = np.stack([np.interp(time_F, np.arange(4), corners_42[:, axis]) for axis in range(2)], axis=1)
    right = ", ".join(ways)
    return _act("In which order does the object move?", right, _others(right, orders), offsets_F2)


def _repetition(rng: np.random.Generator, num_frames: int) -> _Act:
    """One to four jumps."""
    count = int(rng.integers(1, 5))
    height_F = 0.3 * np.abs(np.sin(np.pi * count * np.linspace(0, 1, num_frames)))
    offsets_F2 = np.stack([-height_F, np.zeros(num_frames)], axis=1)
    return _act(
        "How many times does the object jump?", str(count), _others(str(count), ["1", "2", "3", "4"]), offsets_F2
    )


def _objects(rng: np.random.Generator, num_frames: int) -> _Act:
    """Which object moves; the options are filled in when the bodies are known."""
    way = np.asarray(list(DIRECTIONS.values())[rng.integers(4)])
    return _act("Which object moves?", "", (), np.linspace(0, 1, num_frames)[:, None] * rng.uniform(*TRAVEL) * way)


def _camera(rng: np.random.Generator, num_frames: int) -> _Act:
    """Let the camera move, and nothing else."""
    time_F = np.linspace(0, 1, num_frames)
    moves = {f"It {'pans' if way in ('left', 'right') else 'tilts'} {way}": step for way, step in DIRECTIONS.items()}
    zooms = {"It zooms in": 0.6, "It zooms out": -0.35, "It stands still": 0.0}
    right = str(rng.choice([*moves, *zooms]))
    camera = Camera(time_F[:, None] * 0.35 * np.asarray(moves.get(right, (0, 0))), 1 + zooms.get(right, 0.0) * time_F)
    act = _act("How does the camera move?", right, _others(right, [*moves, *zooms]), np.zeros((num_frames, 2)))
    return replace(act, camera=camera)


_ACTS: dict[str, Callable[[np.random.Generator, int], _Act]] = {
    "Motion Recognition": _recognition,
    "Location-related Motion": _location,
    "Action Order": _order,
    "Repetition Count": _repetition,
    "Motion-related Objects": _objects,
    "Camera Motion": _camera,
}
QUESTION_TYPES = tuple(_ACTS)
