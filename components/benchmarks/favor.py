"""FAVOR-Bench: fine-grained actions and camera motion; options are texts without letters, the prompt is its own.

It ships as `video_perspective.json`, by video, and as `question_perspective.json`, one entry per question; the first
counts where both are there. The clips are in `videos/FAVOR-Bench`, in `videos`, or where its script reads them, in
`test_videos`; `video_name` is with `.mp4` or without.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from components.benchmarks.interface import Benchmark, Counts, Metric, paper_rows
from components.benchmarks.rows import Layout, Rows, bad_row, has, lettered, list_of, name_of, text_of
from components.core.artifacts import ItemResult
from components.core.errors import DataError
from components.core.records import Json, Option

BY_VIDEO, BY_QUESTION = "video_perspective.json", "question_perspective.json"
FOLDERS = ("videos/FAVOR-Bench", "videos", "test_videos")


def read(rows: Rows) -> None:
    """Read the list of videos, or of questions: options are texts, and the answer is one of them."""
    if BY_VIDEO not in rows.files and BY_QUESTION in rows.files:
        for where, item in rows.items(BY_QUESTION):
            uid = name_of(item, where, "question_key")
            with rows.attempt(where, uid):
                _add(rows, item, where, uid, text_of(item, "video_name", where))
        return
    for where, video in rows.items(BY_VIDEO):
        with rows.attempt(where):
            name = text_of(video, "video_name", where)
            for index, item in enumerate(list_of(video, "questions", where), start=1):
                uid = f"{name.removesuffix('.mp4')}#{index}"
                with rows.attempt(where, uid):
                    _add(rows, item, where, uid, name)


def _add(rows: Rows, item: Any, where: str, uid: str, video: str) -> None:
    """Add a question: its options get letters here."""
    texts, right = list_of(item, "options", where), text_of(item, "correct_answer", where)
    if texts.count(right) != 1:
        raise bad_row(f"answer {right!r} is {texts.count(right)} times among the options", where)
    question, kind = text_of(item, "question", where), text_of(item, "task_type", where, "")
    options, name = lettered(texts, where), video.removesuffix(".mp4")
    asked: Json = {"question": question, "options": options, "answer": options[texts.index(right)][0]}
    rows.add(uid, where, f"{name}.mp4", FOLDERS, **asked, question_type=kind, labels={"video": name})


def prompt(question: str, options: Sequence[Option]) -> str:
    """Return the benchmark's prompt, grammar included; the options are a Python list, without letters."""
    return (
        "Carefully watch the video and pay attention to temporal dynamics in this video, focusing on the camera "
        "motions, actions, activities, and interactions. Based on your observations, select the best option that "
        f"accurately addresses the question.\n{question}\n"
        f"You can only response with the answer among {[option.text for option in options]}"
    )


def official_rule(reply: str, options: Sequence[Option], gold: str) -> bool:
    """Return whether the right text is in the reply, and no other option that contains that text is.

    Published in `inference_qa_qwen.py`: the reply is compared without case, but whether an option contains the right
    text is looked up with case. So where "sits" is right, "sits down" is wrong beside an option "sits down" and
    right beside "Sits down". A reply that repeats every option is right wherever no option contains another.
    """
    texts = {option.letter: option.text for option in options}
    right, said = texts[gold], reply.lower()
    longer = [text for text in texts.values() if text != right and right in text]
    return right.lower() in said and not any(text.lower() in said for text in longer)


def submission(lines: Sequence[ItemResult]) -> tuple[str, str]:
    """Return the file that its `inference_qa_qwen.py` writes and `analyze_qa.py` reads: one JSON line per video.

    Raises:
        DataError: items that were not imported from its published files, so that nobody knows its names of the videos.
    """
    videos: dict[str, list[Json]] = {}
    for line in lines:
        sample = line.sample
        if "video" not in sample.labels:
            remedy = f"import FAVOR-Bench from its {BY_VIDEO}"
            raise DataError("no name of its video", source=f"item {sample.uid}", remedy=remedy)
        right = next(option.text for option in sample.options if option.letter == sample.answer)
        judged: Json = {"task_type": BENCHMARK.task_type(sample.question_type, sample.uid), "correct_answer": right}
        judged |= {"output": line.reply, "judge": line.official_correct}
        videos.setdefault(sample.labels["video"], []).append(judged)
    written = [json.dumps({name: judged}, ensure_ascii=False) + "\n" for name, judged in sorted(videos.items())]
    return "favor.jsonl", "".join(written)


_TWICE = "the same pair 45.47 / 45.99 is printed for another experiment (main Table 3, MTTI only)"
_FRAMES = "frames: 1 fps in the supplement's Table 4, 8 in the main text's Table 2, same numbers"

# supplement, Table 4
_PAPER = """
                            frames Overall Average      AS     HAC     SAD     MAD      CM     NSM
VideoLLaMA3-2B                1fps   32.98   34.61   28.97   36.60   34.90   38.01   28.56   40.62
InternVL2.5-2B                   8   22.90   23.45   18.70   28.23   23.71   27.47   19.16   23.44
Qwen2.5-VL-3B                 1fps   37.43   38.07   38.45   38.16   39.35   43.40   23.72   45.31
tuned                         1fps   44.53   43.94   45.01   51.59   44.40   48.96   28.37   45.31
InternVL3-2B                  1fps   39.27   39.11   37.66   43.28   40.49   44.98   29.21   39.06
tuned                         1fps   43.71   45.35   38.53   54.57   42.60   51.78   33.02   51.56
LLaVA-Video-7B-Qwen2            64   38.60   39.94   36.14   41.27   41.28   44.48   29.58   46.88
VideoChat-Flash-Qwen2-7B      1fps   43.82   44.86   41.90   48.41   42.84   50.95   35.07   50.00
VideoLLaMA3-7B                1fps   41.46   41.46   40.20   44.13   42.42   48.30   31.53   42.19
Video-LLaVA-7B                   8   25.37   25.09   24.91   21.54   25.45   30.54   26.23   21.88
LLaVA-NeXT-Video-7B              8   23.45   22.27   21.27   22.45   26.05   26.72   23.07   14.06
Tarsier-7B                       8   17.46   20.50   12.55   21.16   17.87   17.93   22.23   31.25
Qwen2.5-VL-7B                 1fps   42.61   42.58   41.64   47.83   44.89   47.55   28.28   45.31
tuned                         1fps   46.88   47.01   49.34   50.62   45.37   53.20   30.42   53.12
Qwen2.5-VL-7B + MotionSight   1fps   45.47   45.99   46.23   51.59   45.01   50.04   29.95   53.12
InternVL3-8B                  1fps   45.82   46.35   45.39   48.54   47.59   51.45   33.58   51.56
tuned                         1fps   48.94   49.25   47.17   57.11   46.57   56.35   36.74   51.56
LLaVA-NeXT-Video-34B             8   30.44   32.58   31.70   31.99   32.31   22.99   29.58   46.88
LLaVA-Video-72B-Qwen2           64   46.08   46.49   48.35   47.50   45.25   51.70   33.02   53.12
Qwen2.5-VL-72B                1fps   48.14   48.17   50.28   46.98   48.13   51.78   40.28   51.56
InternVL2.5-78B                  8   38.54   38.36   38.38   40.62   39.05   43.65   29.40   39.06
"""

BENCHMARK = Benchmark(
    name="favor",
    title="FAVOR-Bench",
    types={
        "Action Sequence": "AS",
        "Holistic Action Classification": "HAC",
        "Single Action Detail": "SAD",
        "Multiple Action Details": "MAD",
        "Camera Motion": "CM",
        "Non-Subject Motion": "NSM",
    },
    metrics=(Metric("Overall"), Metric("Average", "macro")),
    prompt=prompt,
    official_rule=official_rule,
    layout=Layout("favor", has(BY_VIDEO, BY_QUESTION), read),
    shows_letters=False,
    max_new_tokens=256,
    supplement_fps=1.0,  # of InternVL3, by its Table 4; the main text has 8 frames
    paper=paper_rows(
        _PAPER,
        {
            "InternVL3-2B": {"row": _FRAMES},
            "InternVL3-8B": {"row": _FRAMES},
            "Qwen2.5-VL-7B + MotionSight": {"untouched.Overall": _TWICE, "untouched.Average": _TWICE},
        },
    ),
    counts=Counts({"AS": 2637, "HAC": 1541, "SAD": 1662, "MAD": 1205, "CM": 1075, "NSM": 64}),  # of `analyze_qa.py`
    submission=submission,
)
