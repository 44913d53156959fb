"""SEED-Bench: general questions about images and videos, here a check that tuning costs nothing elsewhere.

It ships as `SEED-Bench.json`, images, and eight still frames for each question about a video. Of the videos themselves,
which other data sets have, many questions are about a part. A prompt of its own was not published; this is the
customary one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from components.benchmarks.interface import Benchmark, Metric, paper_rows
from components.benchmarks.rows import LETTERS, Layout, Rows, bad_row, has, list_of, text_of
from components.core.errors import DataError
from components.core.records import Option
from components.core.text import render_question
from components.media.parts import Seconds

ANNOTATIONS = "SEED-Bench.json"
_IMAGES = ("SEED-Bench-image", "")
# by type: folders of the data set whose videos they are, folder of the still frames, segments per second
_VIDEOS = {
    10: (("SSV2/videos", "20bn-something-something-v2", "videos", ""), "task10/ssv2_8_frame", None),
    11: (("EPIC-KITCHENS", "videos", ""), "task11/kitchen_8_frame", 1.0),
    12: (("BreakfastII_15fps_qvga_sync", "videos", ""), "task12/breakfast_8_frame", 15.0),
}
_FRAMES = "v1_video"
_LONGEST = 1e6  # of a segment's bounds: more seconds than any video has

IMAGE_TYPES = {
    "Scene Understanding": "SU",
    "Instance Identity": "II",
    "Instance Attributes": "IA",
    "Instance Location": "IL",
    "Instances Counting": "IC",
    "Spatial Relation": "SR",
    "Instance Interaction": "IN",
    "Visual Reasoning": "VR",
    "Text Understanding": "TU",
}
VIDEO_TYPES = {"Action Recognition": "AR", "Action Prediction": "AP", "Procedure Understanding": "PU"}
_GROUPS = {"Image": IMAGE_TYPES, "Video": VIDEO_TYPES}


def read(rows: Rows) -> None:
    """Read the questions: about an image, a video or a part of one, or its still frames where the video is not there.

    A part is in seconds for EPIC-Kitchens and in frames at 15 per second for Breakfast.
    """
    for where, uid, kind, item in questions(rows, ANNOTATIONS):
        with rows.attempt(where, uid):
            name, number = text_of(item, "data_id", where), item["question_type_id"]
            asked = asked_of(item, where) | {"question_type": kind}
            if (media := text_of(item, "data_type", where)) == "image":
                rows.add(uid, where, name, _IMAGES, **asked)
                continue
            if media != "video" or number not in _VIDEOS:
                raise bad_row(f"data_type {media!r} of question type {number}", where)
            folders, frames, rate = _VIDEOS[number]
            places = [f"{top}{_FRAMES}/{frames}/{uid}" for top in ("", "SEED-Bench-video-image/")]
            folder = next((place for place in places if place in rows.folders), places[0])
            if any(rows.find(str(PurePosixPath(one) / name)) is not None for one in folders):
                rows.add(uid, where, name, folders, **asked, part=segment(item, rate, where) if rate else None)
            elif folder in rows.folders:
                rows.add(uid, where, folder, **asked, frames=numbered(rows.folders[folder], folder, where))
            else:  # missing: reported under the name of what is published
                rows.add(uid, where, folder, **asked)


def questions(rows: Rows, path: str) -> list[tuple[str, str, str, Any]]:
    """Return place, id, type by name, and fields of each question of an annotation file; a bad row is left out.

    Raises:
        DataError: no lists of questions and types in it.
    """
    document = rows.document(path)
    if not isinstance(document, dict) or not isinstance(document.get("question_type"), dict):
        problem = "no object with `questions` and `question_type`"
        raise DataError(problem, source=f"{rows.backend.uri}/{path}", remedy="download the file again")
    types = {number: name for name, number in document["question_type"].items() if isinstance(number, int)}
    found = []
    for place, item in enumerate(list_of(document, "questions", path), start=1):
        where = f"{path}:{place}"
        with rows.attempt(where):
            uid = text_of(item, "question_id", where)
            number = item.get("question_type_id")
            if not isinstance(number, int) or number not in types:
                raise bad_row(f"question type {number!r}, the file names {', '.join(map(str, sorted(types)))}", where)
            found.append((where, uid, types[number], item))
    return found


def asked_of(item: Any, where: str) -> dict[str, Any]:
    """Return a question's text, options and answer: arguments of `Rows.add`."""
    options = [(letter, text_of(item, f"choice_{letter.lower()}", where)) for letter in LETTERS[:4]]
    return {
        "question": text_of(item, "question", where),
        "options": options,
        "answer": text_of(item, "answer", where).strip(),
    }


def segment(item: Any, rate: float, where: str) -> Seconds:
    """Return the part of a video that a question is about; its bounds are counted `rate` per second."""
    bounds = list_of(item, "segment", where)
    known = len(bounds) == 2 and all(isinstance(bound, (int, float)) for bound in bounds)
    if not known or not 0 <= bounds[0] < bounds[1] < _LONGEST:
        raise bad_row(f"segment {bounds}, wanted start and end", where)
    return Seconds(bounds[0] / rate, bounds[1] / rate)


def numbered(names: Sequence[str], folder: str, where: str) -> list[str]:
    """Return the still frames of a folder in their order, by number: `1.png`, `2.png`, … without a gap."""
    by_number = {PurePosixPath(name).stem: name for name in names}
    wanted = [str(number) for number in range(1, len(names) + 1)]
    if missing := [number for number in wanted if number not in by_number]:
        raise bad_row(f"no frame {missing[0]} among the {len(names)} files of {folder}", where)
    return [f"{folder}/{by_number[number]}" for number in wanted]


def prompt(question: str, options: Sequence[Option]) -> str:
    """Return the customary prompt."""
    return f"{render_question(question, options)}\nAnswer with the option's letter from the given choices directly."


def official_rule(reply: str, options: Sequence[Option], gold: str) -> bool:
    """Return whether the reply's first character is the right letter, whatever its case.

    As lmms-eval scores replies; the benchmark's own script has none, it ranks the options' likelihoods.
    """
    return reply.strip()[:1].lower() == gold.lower()


_OLDER = "All follows from Image and Video in an older version of SEED-Bench, with more questions about videos"
_MIXED = "the table mixes two versions of SEED-Bench or two weightings: All does not follow from Image and Video"

# supplement, Table 7
_PAPER = """
                     All   Image   Video
GPT-4V              67.3    69.1    60.5
LLaVA-1.5-13B       61.6    68.2    42.7
Weitu-VL-1.0-13B    69.2    74.2    50.5
SPHINXv2-1k-13B     67.5    74.8    39.8
Qwen2.5-VL-7B       74.1    77.5    61.3
tuned               72.9    75.9    62.1
InternVL3-8B        72.7    76.2    60.4
tuned               72.4    75.8    60.6
"""

BENCHMARK = Benchmark(
    name="seed",
    title="SEED-Bench",
    types={**IMAGE_TYPES, **VIDEO_TYPES},
    metrics=(Metric("All"), *(Metric(name, types=frozenset(kinds.values())) for name, kinds in _GROUPS.items())),
    prompt=prompt,
    official_rule=official_rule,
    layout=Layout("seed", has(ANNOTATIONS), read, training=False),
    paper=paper_rows(
        _PAPER,
        {"Qwen2.5-VL-7B": {"row": _MIXED}, "InternVL3-8B": {"row": _MIXED}, "LLaVA-1.5-13B": {"row": _OLDER}},
    ),
)
