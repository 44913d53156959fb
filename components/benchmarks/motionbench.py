"""MotionBench: 8 052 questions about fine-grained motion, of which about half have a published answer.

On the hub it is `MotionBench/video_info.meta.jsonl` and two folders of clips; its repository has the same file in
`data/`. A prompt of its own was not published; this is the customary one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from components.benchmarks.interface import Benchmark, Counts, Metric, paper_rows
from components.benchmarks.rows import LETTERS, Layout, Rows, bad_row, has, list_of, text_of
from components.core.artifacts import ItemResult
from components.core.errors import DataError
from components.core.records import Option
from components.core.text import render_question

ANNOTATIONS = ("MotionBench/video_info.meta.jsonl", "data/video_info.meta.jsonl")  # the hub's, the repository's
FOLDERS = tuple(f"{top}{own}" for top in ("MotionBench/", "data/", "") for own in ("self-collected", "public-dataset"))
HELD_OUT = "NA"  # the answer of items whose answer is not published

_OPTION = re.compile(r"\(?([A-Z])[.)](?:\s+(.*))?$")


def read(rows: Rows) -> None:
    """Read one line per video, its questions in `qa`; the clips are cut already, so `start` and `end` are not read."""
    for where, line in rows.lines(rows.one_of(*ANNOTATIONS)):
        with rows.attempt(where):
            path, kind = text_of(line, "video_path", where), text_of(line, "question_type", where, "")
            for item in list_of(line, "qa", where):
                uid = text_of(item, "uid", where)
                with rows.attempt(where, uid):
                    question, options = split_options(text_of(item, "question", where), where)
                    answer = text_of(item, "answer", where)
                    answer = "" if answer == HELD_OUT else answer
                    rows.add(uid, where, path, FOLDERS, question, options=options, answer=answer, question_type=kind)


def split_options(text: str, source: str) -> tuple[str, list[tuple[str, str]]]:
    """Split a text into the question and its options (letter, text), which stand below it one per line.

    A line without a letter belongs to what stands above it; letters out of order raise DataError.
    """
    question: list[str] = []
    options: list[tuple[str, str]] = []
    for line in text.splitlines():
        found = _OPTION.match(line.strip())
        if found and (options or found[1] == "A"):
            if found[1] != (due := LETTERS[len(options) :][:1]):
                raise bad_row(f"option {found[1]} where {due or 'none'} was due", source)
            options.append((found[1], found[2] or ""))
        elif options:
            letter, above = options[-1]
            options[-1] = (letter, f"{above}\n{line}")
        else:
            question.append(line)
    return "\n".join(question), options


def prompt(question: str, options: Sequence[Option]) -> str:
    """Return the customary prompt."""
    return f"{render_question(question, options)}\nAnswer with only the option letter."


def official_rule(reply: str, options: Sequence[Option], gold: str) -> bool:
    """Return whether the first character of what the script leaves of the reply is the right letter, case included.

    Published as `polish_answer`: the text before the first `)`; of that, if there is a `(`, what stands after the first
    one and before the next. So "Answer: D" is A, "(D) left" D, and "It (the man) turns: (D)" t.
    """
    kept = reply.split(")")[0]
    if "(" in kept:
        kept = kept.split("(")[1]
    return kept.strip()[:1] == gold


def submission(lines: Sequence[ItemResult]) -> tuple[str, str]:
    """Return the file that its leaderboard scores: every item's letter by uid, an unreadable reply as an empty one.

    Raises:
        DataError: two items have one uid.
    """
    letters = {line.sample.uid: line.parsed for line in lines}
    if len(letters) < len(lines):
        (uid, count), *_ = Counter(line.sample.uid for line in lines).most_common()
        raise DataError(f"{count} items are called {uid}", source="MotionBench", remedy="correct its annotations")
    return "motionbench.json", json.dumps(letters, indent=1)


_ROUNDED = "its task types are printed with one decimal"
_TWICE = "the same pair 56.60 / 52.51 is printed for another model (main Table 3, MHS only, 7B)"

# supplement, Table 3
_PAPER = """
                            frames Overall Average      MR      LM      CM      MO      AO      RC
Qwen2.5-VL-3B                 1fps   53.56   49.45   59.54   53.11   38.44   70.14   40.46   35.00
tuned                         1fps   56.60   52.51   63.06   61.72   47.01   68.84   43.16   31.25
InternVL3-2B                     8   53.96   49.69   60.01   57.69   43.90   70.00   40.27   26.25
tuned                            8   55.50   51.35   61.57   57.51   46.23   71.30   42.00   29.50
MiniCPM-V2.6-7B                 64      52       -       -       -       -       -       -       -
CogVLM2-Video-8B                24      41       -       -       -       -       -       -       -
GLM4-9B + TE Fusion             16      58       -       -       -       -       -       -       -
Qwen2.5-VL-7B                 1fps   52.81   48.29   59.00   54.58   35.58   71.30   38.54   30.75
tuned                         1fps   57.04   52.92   63.40   61.54   47.27   70.29   43.55   31.50
Qwen2.5-VL-7B + MotionSight   1fps   55.30   51.56   59.88   57.33   47.01   73.91   40.46   30.75
InternVL3-8B                     8   54.88   50.81   60.42   58.06   43.64   70.29   43.93   28.50
tuned                            8   57.69   53.22   64.14   60.07   48.83   75.94   40.85   29.50
PLLaVA-34B                      16      52       -       -       -       -       -       -       -
LLaVA-NeXT-Video-34B            32      48       -       -       -       -       -       -       -
Qwen2.5-VL-72B                1fps   58.30   54.32    64.0    60.3    48.6    73.2    46.8    33.0
"""

BENCHMARK = Benchmark(
    name="motionbench",
    title="MotionBench",
    types={
        "Motion Recognition": "MR",
        "Location-related Motion": "LM",
        "Action Order": "AO",
        "Repetition Count": "RC",
        "Motion-related Objects": "MO",
        "Camera Motion": "CM",
    },
    metrics=(Metric("Overall"), Metric("Average", "macro")),
    prompt=prompt,
    official_rule=official_rule,
    layout=Layout("motionbench", has(*ANNOTATIONS), read),
    paper=paper_rows(
        _PAPER,
        {
            "Qwen2.5-VL-3B": {"tuned.Overall": _TWICE, "tuned.Average": _TWICE},
            "Qwen2.5-VL-72B": {"row": _ROUNDED},
        },
    ),
    # by type: supplement, Table 2; held out: the rest of the 8 052 that `random_answers.json` of its repository names
    counts=Counts({"MR": 1478, "LM": 546, "AO": 519, "RC": 400, "MO": 690, "CM": 385}, held_out=4034),
    submission=submission,
)
