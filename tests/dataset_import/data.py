"""Real clips and annotation files for the import's tests."""

import json

import numpy as np

from components.media.video import write_mp4


def clip(path, num_frames=12, seed=0, fps=8, size=(32, 48)):
    """A real H.264 file of smooth noise; another seed gives other content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (num_frames, size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    write_mp4(path, coarse.repeat(8, 1).repeat(8, 2), fps)
    return path


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows),
        encoding="utf-8",
    )


def document(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def own(root, rows):
    """A JSONL source with one clip a video that the rows name."""
    for seed, name in enumerate(sorted({row["video"] for row in rows})):
        if not (root / name).exists():
            clip(root / name, seed=seed)
    lines(root / "data.jsonl", rows)
    return root
