"""How each kind of source writes its rows: MotionBench, its training captions, JSONL of one's own, LLaVA conversations, FAVOR-Bench.

A layout says where the annotations and the videos lie and which field is what; checks are in `rows.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from components.benchmarks.rows import LETTERS, REMEDY, Rejected, Rows, list_of, name_of, text_of
from components.core.errors import DataError
from components.core.records import Turn
from components.store.backend import Backend

MOTIONBENCH = "MotionBench/video_info.meta.jsonl"
CAPTIONS = "MotionBenchCaption-train/train.jsonl"
FAVOR = "video_perspective.json"
OWN_FOLDERS = ("", "videos")
HELD_OUT = "NA"  # MotionBench's answer of items whose answer is not published

_OPTION = re.compile(r"\(?([A-Z])[.)](?:\s+(.*))?$")
_PLACEHOLDER = "<video>"
_HUMAN, _MODEL = {"human", "user"}, {"gpt", "assistant"}


def split_options(text: str, source: str) -> tuple[str, list[tuple[str, str]]]:
    """MotionBench's question string apart: the question, and its options (letter, text), which stand below it one a line.

    A line without a letter belongs to what stands above it.

    Raises:
        DataError: letters out of order.
    """
    question: list[str] = []
    options: list[tuple[str, str]] = []
    for line in text.splitlines():
        found = _OPTION.match(line.strip())
        if found and (options or found[1] == "A"):
            if found[1] != (due := LETTERS[len(options) :][:1]):
                raise DataError(f"option {found[1]} where {due or 'none'} was due", source=source, remedy=REMEDY)
            options.append((found[1], found[2] or ""))
        elif options:
            letter, above = options[-1]
            options[-1] = (letter, f"{above}\n{line}")
        else:
            question.append(line)
    return "\n".join(question), options


def motionbench(rows: Rows, backend: Backend) -> None:
    """`MotionBench/video_info.meta.jsonl`: a line a video, its questions in `qa`.

    `start` and `end` of a question are not read: the clips are already cut, and the benchmark's own scoring does not
    use them.
    """
    for where, line in _lines(rows, backend, MOTIONBENCH):
        with rows.attempt(where):
            path = text_of(line, "video_path", where)
            kind = text_of(line, "question_type", where, "")
            for item in list_of(line, "qa", where):
                uid = text_of(item, "uid", where)
                with rows.attempt(where, uid):
                    question, options = split_options(text_of(item, "question", where), where)
                    answer = text_of(item, "answer", where)
                    rows.add(
                        uid,
                        where,
                        path,
                        ("MotionBench/self-collected", "MotionBench/public-dataset"),
                        question=question,
                        options=options,
                        answer="" if answer == HELD_OUT else answer,
                        question_type=kind,
                    )


def motionbench_caption(rows: Rows, backend: Backend) -> None:
    """`MotionBenchCaption-train/train.jsonl`: a caption a video; the template instruction is its question."""
    for where, line in _lines(rows, backend, CAPTIONS):
        with rows.attempt(where):
            path = text_of(line, "video_path", where)
            uid = path.removesuffix(".mp4")
            with rows.attempt(where, uid):
                rows.add(
                    uid,
                    where,
                    path,
                    ("MotionBenchCaption-train/videos",),
                    response=text_of(line, "motion_caption", where),
                )


def own_jsonl(rows: Rows, backend: Backend) -> None:
    """Any `*.jsonl` at the root: `video`, `response`, optional `question`, `options`, `answer` (letter), `type`, `id`.

    A video's path counts from the root, or from `videos/`.
    """
    for file in root_files(rows, ".jsonl"):
        for where, line in _lines(rows, backend, file):
            uid = name_of(line, where)
            with rows.attempt(where, uid):
                rows.add(
                    uid,
                    where,
                    text_of(line, "video", where),
                    OWN_FOLDERS,
                    question=text_of(line, "question", where, ""),
                    response=text_of(line, "response", where, ""),
                    options=[
                        _own_option(index, option, where)
                        for index, option in enumerate(list_of(line, "options", where, []))
                    ],
                    answer=text_of(line, "answer", where, ""),
                    question_type=text_of(line, "type", where, ""),
                )


def llava(rows: Rows, backend: Backend) -> None:
    """`*.json` at the root, a list of `{video, conversations}`: turn k is a sample whose earlier turns are 1 … k−1.

    A video's path counts from the root, or from `videos/`.
    """
    for file in root_files(rows, ".json"):
        items = load_json(backend, file)
        if not is_llava(items):
            continue
        for number, item in enumerate(items, start=1):
            where = f"{file}:{number}"
            with rows.attempt(where):
                _conversation(rows, item, where)


def favor(rows: Rows, backend: Backend) -> None:
    """FAVOR-Bench's `video_perspective.json`: options are texts, which get letters here, and the answer is one of the texts."""
    for number, video in enumerate(_list(load_json(backend, FAVOR), FAVOR), start=1):
        where = f"{FAVOR}:{number}"
        with rows.attempt(where):
            name = text_of(video, "video_name", where).removesuffix(".mp4")
            for index, item in enumerate(list_of(video, "questions", where), start=1):
                uid = f"{name}#{index}"
                with rows.attempt(where, uid):
                    _favor_item(rows, item, uid, name, where)


LAYOUTS: Mapping[str, Callable[[Rows, Backend], None]] = {
    "motionbench": motionbench,
    "motionbench_caption": motionbench_caption,
    "jsonl": own_jsonl,
    "llava": llava,
    "favor": favor,
}


def root_files(rows: Rows, suffix: str) -> list[str]:
    """Files at the source's root with this suffix, sorted."""
    return sorted(path for path in rows.files if "/" not in path and path.endswith(suffix))


def load_json(backend: Backend, path: str) -> Any:
    """A JSON file of the source.

    Raises:
        DataError: missing, not UTF-8, or not JSON.
    """
    try:
        return json.loads(_text(backend, path))
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error}", source=f"{backend.uri}/{path}", remedy="correct the file") from error


def is_llava(items: Any) -> bool:
    """Whether a JSON value is a list of conversations."""
    return isinstance(items, list) and bool(items) and isinstance(items[0], dict) and "conversations" in items[0]


# Parts ----------------------------------------------------------------------------------------------------------------


def _text(backend: Backend, path: str) -> str:
    data = backend.get(path)
    if data is None:
        raise DataError(
            "the annotation file is missing",
            source=f"{backend.uri}/{path}",
            remedy="complete the source, or name its layout",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error}", source=f"{backend.uri}/{path}", remedy="convert the file") from error


def _lines(rows: Rows, backend: Backend, path: str) -> Iterator[tuple[str, Any]]:
    """Name (`file:line`) and value of every line of a JSONL file; a line that is not JSON is a bad row."""
    # not splitlines(): JSON strings may hold U+2028 and other separators unescaped
    for number, line in enumerate(_text(backend, path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            rows.rejected.append(Rejected(where, f"not JSON: {error}"))
            continue
        yield where, value


def _list(value: Any, source: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(
            f"the file holds {type(value).__name__}, wanted a list", source=source, remedy="correct the file"
        )
    return value


def _own_option(index: int, option: Any, where: str) -> tuple[str, str]:
    if isinstance(option, str):
        return LETTERS[index % len(LETTERS)], option
    return text_of(option, "letter", where), text_of(option, "text", where)


def _conversation(rows: Rows, item: Any, where: str) -> None:
    uid, path = name_of(item, where), text_of(item, "video", where)
    pairs = _pairs(list_of(item, "conversations", where), where)
    earlier: list[Turn] = []
    for index, (question, response) in enumerate(pairs):
        name = uid if len(pairs) == 1 else f"{uid}#{index + 1}"
        with rows.attempt(where, name):
            if len(earlier) < index:
                raise DataError("an earlier turn of the conversation is refused", source=where, remedy=REMEDY)
            row = rows.add(name, where, path, OWN_FOLDERS, question=question, response=response, earlier=earlier)
            earlier = [*earlier, Turn(question=row.question, response=row.response)]


def _pairs(turns: list[Any], where: str) -> list[tuple[str, str]]:
    """Questions and responses in order, the video's placeholder taken out of the first question."""
    if not turns or len(turns) % 2:
        raise DataError(f"{len(turns)} turns, wanted pairs of question and response", source=where, remedy=REMEDY)
    said = [_said(turn, _MODEL if index % 2 else _HUMAN, where) for index, turn in enumerate(turns)]
    said[0] = said[0].replace(_PLACEHOLDER, "", 1)
    return list(zip(said[::2], said[1::2], strict=True))


def _said(turn: Any, speakers: set[str], where: str) -> str:
    speaker = text_of(turn, "from", where)
    if speaker not in speakers:
        raise DataError(
            f"a turn from {speaker!r} where one from {sorted(speakers)} was due", source=where, remedy=REMEDY
        )
    return text_of(turn, "value", where)


def _favor_item(rows: Rows, item: Any, uid: str, name: str, where: str) -> None:
    texts = list_of(item, "options", where)
    right = text_of(item, "correct_answer", where)
    if texts.count(right) != 1:
        raise DataError(
            f"answer {right!r} is {texts.count(right)} times among the options", source=where, remedy=REMEDY
        )
    options = [_own_option(index, text, where) for index, text in enumerate(texts)]
    rows.add(
        uid,
        where,
        f"{name}.mp4",
        ("videos/FAVOR-Bench", "videos"),
        question=text_of(item, "question", where),
        options=options,
        answer=options[texts.index(right)][0],
        question_type=text_of(item, "task_type", where, ""),
    )
