"""Video-MME without subtitles: general questions about short, medium and long videos, with a prompt of its own.

It ships as a parquet table and zip files of videos; a question's type is its video's length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from components.benchmarks.interface import Benchmark, Counts, Metric, paper_rows
from components.benchmarks.rows import Layout, Rows, lettered, list_of, text_of
from components.benchmarks.tables import table_rows
from components.core.artifacts import ItemResult
from components.core.errors import DataError
from components.core.records import Json, Option
from components.core.text import render_question

FOLDERS = ("data", "videos", "")
_ANNOTATIONS = re.compile(r"(?:videomme/)?test-\d+-of-\d+\.parquet")
_ENDINGS = (".mp4", ".MP4", ".mkv")
_LENGTHS = ("short", "medium", "long")
_LABELS = ("video_id", "domain", "sub_category", "task_type")  # columns that a submission file repeats
# in the script's order; commas are missing in it between two pairs, which are therefore never found
_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
)


def read(rows: Rows) -> None:
    """Read one row per question; `videoID` is the name of its video's file, without the ending."""
    for path in _annotations(rows):
        for where, row in table_rows(rows, path):
            with rows.attempt(where):
                uid = text_of(row, "question_id", where)
                with rows.attempt(where, uid):
                    options = lettered(list_of(row, "options", where), where)
                    question, answer = text_of(row, "question", where), text_of(row, "answer", where)
                    asked: dict[str, Any] = {"question": question, "options": options, "answer": answer}
                    video, length = _file(rows, text_of(row, "videoID", where)), text_of(row, "duration", where)
                    labels = {name: row[name] for name in _LABELS if isinstance(row.get(name), str)}
                    rows.add(uid, where, video, FOLDERS, **asked, question_type=length, labels=labels)


def _annotations(rows: Rows) -> list[str]:
    return [path for path in sorted(rows.files) if _ANNOTATIONS.fullmatch(path)]


def _file(rows: Rows, name: str) -> str:
    """Return the video's file name with the ending that is there; `.mp4` where none is."""
    names = [f"{name}{ending}" for ending in _ENDINGS]
    there = (one for one in names if any(rows.find(str(PurePosixPath(folder) / one)) for folder in FOLDERS))
    return next(there, names[0])


def prompt(question: str, options: Sequence[Option]) -> str:
    """Return the benchmark's prompt."""
    return (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        f"letter (A, B, C, or D) of the correct option.\n{render_question(question, options)}\nThe best answer is:"
    )


def official_rule(reply: str, options: Sequence[Option], gold: str) -> bool:
    """Return whether the first capital A–D, anywhere in what is left without known phrases, is the right letter.

    Published in `eval_your_results.py`. So "Best answer: D" is B, "Correct: D" C, and "A man turns: D" A. The script
    leaves a reply without such a capital out of its denominator; here it is wrong.
    """
    for phrase in _PHRASES:
        reply = reply.replace(phrase, "")
    found = re.search("[ABCD]", reply)
    return found is not None and found[0] == gold


def submission(lines: Sequence[ItemResult]) -> tuple[str, str]:
    """Return the file that its `eval_your_results.py` reads: the videos, each with its questions and replies.

    Raises:
        DataError: items without one of the labels that this file has beside the question.
    """
    videos: dict[str, Json] = {}
    for line in sorted(lines, key=lambda line: line.sample.uid):
        sample = line.sample
        if missing := [name for name in _LABELS if name not in sample.labels]:
            remedy = "import Video-MME from its published table"
            raise DataError(f"no {', '.join(missing)}", source=f"item {sample.uid}", remedy=remedy)
        video, domain, category, task = (sample.labels[name] for name in _LABELS)
        duration = BENCHMARK.task_type(sample.question_type, sample.uid)
        kinds = {"duration_category": duration, "video_category": domain, "video_subcategory": category}
        asked: Json = {"question_id": sample.uid, "task_type": task, "question": sample.question}
        asked |= {"choices": [f"{option.letter}. {option.text}" for option in sample.options]}
        questions = videos.setdefault(video, {"video_id": video, **kinds, "questions": []})["questions"]
        questions.append(asked | {"answer": sample.answer, "response": line.reply})
    return "videomme.json", json.dumps([videos[name] for name in sorted(videos)], indent=1, ensure_ascii=False)


_NO_MEAN = "Short, Medium and Long have equally many questions, and their mean is 67.1"

# supplement, Table 7
_PAPER = """
                   Overall   Short  Medium    Long
GPT-4V                59.9    70.5    55.8    53.5
VideoLLaMA3-7B        66.2    80.1    63.7    54.9
VideoChat-Flash-7B    65.3    78.0    67.8    55.6
VITA1.5-7B            56.1    67.0    54.2    47.1
Qwen2.5-VL-7B         60.7    70.9    59.6    51.6
tuned                 61.4    72.8    61.1    50.2
InternVL3-8B          62.1    71.8    61.9    52.6
tuned                 62.3    73.0    62.2    51.7
"""

BENCHMARK = Benchmark(
    name="videomme",
    title="Video-MME (without subtitles)",
    types={length: length for length in _LENGTHS},
    metrics=(Metric("Overall"), *(Metric(length.title(), types=frozenset({length})) for length in _LENGTHS)),
    prompt=prompt,
    official_rule=official_rule,
    layout=Layout("videomme", lambda rows: bool(_annotations(rows)), read, training=False),
    paper=paper_rows(_PAPER, {"VideoChat-Flash-7B": {"untouched.Overall": _NO_MEAN}}),
    counts=Counts(dict.fromkeys(_LENGTHS, 900)),
    submission=submission,
)
