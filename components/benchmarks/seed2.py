"""SEED-Bench-2: what SEED-Bench asks, and more kinds of images and of videos, which are eight still frames each.

It ships as `SEED-Bench_v2_level1_2_3.json` with images in two zip files. Questions about several images, about images
between texts, and those whose options are images are not asked: an item is about one image or one video.
"""

from __future__ import annotations

from components.benchmarks import seed
from components.benchmarks.interface import Benchmark, Metric
from components.benchmarks.rows import Layout, Rows, bad_row, list_of, text_of

_PREFIX = "SEED-Bench_v2"
_FOLDERS = {"cc3m": ("cc3m-image", ""), "SEED-Bench v2": ("SEED-Bench-2-image", "")}  # by source
_NOT_ASKED = ("Multiple Images", "Interleaved Image", "Image Generation", "Image & Text Generation")
_IMAGE = seed.IMAGE_TYPES | {
    "Celebrity Recognition": "CR",
    "Landmark Recognition": "LR",
    "Chart Understanding": "CU",
    "Visual Referring Expression": "VE",
    "Science Knowledge": "SK",
    "Emotion Recognition": "ER",
    "Visual Mathematics": "VM",
}
_VIDEO = {"Global Video Understanding": "GV"} | seed.VIDEO_TYPES
_GROUPS = {"Image": _IMAGE, "Video": _VIDEO}


def read(rows: Rows) -> None:
    """Read the questions about one image or one video; the others are counted by kind."""
    for path in _annotations(rows):
        for where, uid, kind, item in seed.questions(rows, path):
            with rows.attempt(where, uid):
                if (media := text_of(item, "data_type", where)) in _NOT_ASKED:
                    rows.aside[f"data_type {media!r}"] += 1
                    continue
                asked = seed.asked_of(item, where) | {"question_type": kind}
                if (source := text_of(item, "data_source", where)) not in _FOLDERS:
                    raise bad_row(f"data_source {source!r}, known are {', '.join(_FOLDERS)}", where)
                if media == "Single Image":
                    rows.add(uid, where, text_of(item, "data_id", where), _FOLDERS[source], **asked)
                elif media == "Video":
                    frames = list_of(item, "data_id", where)
                    if len(frames) < 2 or not all(isinstance(name, str) for name in frames):
                        raise bad_row("a video is a list of the names of its frames", where)
                    rows.add(uid, where, frames[0].rpartition("/")[0], _FOLDERS[source], **asked, frames=frames)
                else:
                    raise bad_row(f"data_type {media!r}", where)


def _annotations(rows: Rows) -> list[str]:
    return [path for path in rows.root_files(".json") if path.startswith(_PREFIX)]


BENCHMARK = Benchmark(
    name="seed2",
    title="SEED-Bench-2",
    types={**_IMAGE, **_VIDEO},
    metrics=(Metric("All"), *(Metric(name, types=frozenset(kinds.values())) for name, kinds in _GROUPS.items())),
    prompt=seed.prompt,
    official_rule=seed.official_rule,
    layout=Layout("seed2", lambda rows: bool(_annotations(rows)), read, training=False),
)
