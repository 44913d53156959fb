"""The synthetic set: short clips of known motion, H.264 files in MotionBench's layout, with ground-truth masks.

`scenes` (to train on): three equal objects on a plain background, one moves, a caption in a closed vocabulary. All
three are given a course in the same way; which one moves is drawn last, and the others stand still somewhere on theirs.
Movers and standing objects therefore lie in the same places on average, and a map that prefers the centre of the frame
cannot tell them apart. `bench` (to evaluate on): textures, six question types that mirror MotionBench's, four options,
letters balanced within each type.
No torch here: the set can be written on any machine. Legend as in `drawing.py`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from safetensors.numpy import save_file

from components.core.errors import ParameterError
from components.media.video import write_mp4
from components.synthetic import drawing
from components.synthetic.drawing import COLOURS, DIRECTIONS, SHAPES, Background, Scene, body_at, frame_extent
from components.synthetic.questions import Question, questioned

PRESETS = {  # annotations and folder of the videos
    "scenes": ("MotionBenchCaption-train/train.jsonl", "MotionBenchCaption-train/videos"),
    "bench": ("MotionBench/video_info.meta.jsonl", "MotionBench/self-collected"),
}
VOCABULARY = (*COLOURS, *SHAPES, *DIRECTIONS, "the", "and", "moves", "while", "stays", "stay")
HELD_OUT = "NA"  # MotionBench's answer of items whose answer is not published
_MARKER = "set.json"
_HELD_OUT_FROM = 24  # a smaller bench keeps every answer

_TEMPLATES = (
    "the {mover} moves {way}",
    "the {mover} moves {way}",
    "the {mover} moves {way} while the {a} stays",
    "the {a} stays while the {mover} moves {way}",
    "the {mover} moves {way} while the {a} and the {b} stay",
    "the {a} and the {b} stay while the {mover} moves {way}",
)


@dataclass(frozen=True)
class Clip:
    """A scene and what is said of it: a caption (`scenes`) or a question (`bench`)."""

    scene: Scene
    caption: str = ""
    question: Question | None = None


def write_set(
    folder: Path | str,
    preset: str,
    count: int,
    seed: int,
    size: tuple[int, int] = (64, 64),
    num_frames: int = 17,
    fps: float = 8.0,
) -> None:
    """Write `count` clips of `size` (height, width in pixels) with annotations and masks.

    A second equal call leaves everything alone.

    Layout: MotionBench's, beside it `gt/<video stem>.safetensors` with uint8 `mover` and `objects` [F, H, W] (`objects`
    holds 1 + the object's index) and `set.json`. The set appears under its name when it is complete, never half.

    Raises:
        ParameterError: impossible sizes, or a folder that holds something else.
    """
    sides = min(size) >= 16 and not any(side % 2 for side in size)
    if preset not in PRESETS or count < 1 or num_frames < 2 or fps <= 0 or not sides:
        problem = f"synthetic set {preset!r}: {count} clips of {num_frames} frames, {size} pixels, {fps} fps"
        remedy = f"preset one of {(*PRESETS,)}, at least 1 clip, 2 frames, and even sides of at least 16 pixels"
        raise ParameterError(problem, source="write_set", remedy=remedy)
    target, fps = Path(folder).resolve(), float(fps)
    given = {"preset": preset, "count": count, "seed": seed, "size": size, "num_frames": num_frames, "fps": fps}
    marker = json.dumps(given, sort_keys=True)
    if _already_there(target, marker):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _write(draft, preset, count, seed, size, num_frames, fps)
        (draft / _MARKER).write_text(f"{marker}\n", encoding="utf-8")
        draft.chmod(0o755)  # mkdtemp's is private
        draft.replace(target)  # takes the place of an empty folder
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def make_clip(preset: str, seed: int, index: int, size: tuple[int, int], num_frames: int) -> Clip:
    """Clip `index` of a set; it depends on nothing but these arguments."""
    rng = np.random.default_rng([seed, list(PRESETS).index(preset), index])
    if preset == "scenes":
        return _captioned(rng, frame_extent(size), num_frames)
    scene, question = questioned(rng, index, frame_extent(size), num_frames)
    return Clip(scene, question=question)


def draw(
    scene: Scene, size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "F H W 3"], UInt8[np.ndarray, "F H W"], UInt8[np.ndarray, "F H W"]]:
    """RGB frames, the mover's mask (all zero where only the camera moves), and object ids (1 + index)."""
    frames, ids = drawing.render(scene, size)
    mover = np.zeros_like(ids) if scene.mover is None else (ids == scene.mover + 1).astype(np.uint8)
    return frames, mover, ids


def _already_there(target: Path, marker: str) -> bool:
    """Whether this very set is there; anything else in the folder is refused."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    path = target / _MARKER
    found = path.read_text(encoding="utf-8").strip() if path.is_file() else "no set.json"
    if found != marker:
        problem = f"the folder holds something else ({found}), wanted {marker}"
        raise ParameterError(problem, source=str(target), remedy="choose an empty folder, or remove this one")
    return True


def _write(root: Path, preset: str, count: int, seed: int, size: tuple[int, int], num_frames: int, fps: float) -> None:
    annotations, videos = (root / path for path in PRESETS[preset])
    videos.mkdir(parents=True)
    (root / "gt").mkdir()
    resolution = {"width": size[1], "height": size[0]}
    info = {"duration": num_frames / fps, "fps": fps, "resolution": resolution}
    with annotations.open("w", encoding="utf-8") as lines:
        for index in range(count):
            clip = make_clip(preset, seed, index, size, num_frames)
            stem = f"{preset}-{seed}-{index:05d}"
            frames, mover, ids = draw(clip.scene, size)
            write_mp4(videos / f"{stem}.mp4", frames, fps)
            save_file({"mover": mover, "objects": ids}, root / "gt" / f"{stem}.safetensors")
            row: dict[str, Any] = {"video_path": f"{stem}.mp4", "motion_caption": clip.caption}
            if clip.question:
                # one item in 24 is held out, going round the question types
                held_out = count >= _HELD_OUT_FROM and index // 6 % 4 == 3 and index % 6 == index // 24 % 6
                row = _question_row(stem, clip.question, held_out) | {"video_info": info}
            lines.write(json.dumps(row) + "\n")


def _question_row(stem: str, question: Question, held_out: bool) -> dict[str, Any]:
    answer = HELD_OUT if held_out else question.answer
    return {
        "question_type": question.kind,
        "video_type": "synthetic",
        "key": stem,
        "video_path": f"{stem}.mp4",
        "qa": [{"uid": f"{stem}_1", "start": None, "end": None, "answer": answer, "question": question.rendered()}],
    }


def _captioned(rng: np.random.Generator, extent: tuple[float, float], num_frames: int) -> Clip:
    courses = drawing.courses_apart(rng, extent)
    colours, shapes = rng.permutation(list(COLOURS))[:3], rng.choice(SHAPES, 3)
    mover = int(rng.integers(3))
    bodies = []
    for i, course in enumerate(courses):
        progress_F = np.linspace(0, 1, num_frames)
        if i != mover:
            progress_F = np.full(num_frames, rng.integers(num_frames) / (num_frames - 1))
        begin, end = np.asarray(course.begin), np.asarray(course.end)
        bodies.append(body_at(str(colours[i]), str(shapes[i]), begin + progress_F[:, None] * (end - begin)))
    a, b = (bodies[i].name for i in rng.permutation([i for i in range(3) if i != mover]))
    template = _TEMPLATES[rng.integers(len(_TEMPLATES))]
    grey = float(rng.uniform(0.4, 0.6))
    scene = Scene(tuple(bodies), mover, drawing.still_camera(num_frames), Background((grey, grey, grey)))
    return Clip(scene, template.format(mover=bodies[mover].name, way=courses[mover].way, a=a, b=b))
