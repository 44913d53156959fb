"""How training sources are written: MotionBench's captions, one's own JSONL (benchmarks too), LLaVA conversations.

The layouts of published benchmarks are in the benchmarks' own modules.
"""

from __future__ import annotations

from typing import Any

from components.benchmarks.rows import Layout, Rows, bad_row, has, letter_of, lettered, list_of, name_of, text_of
from components.core.records import Turn

_CAPTIONS = "MotionBenchCaption-train/train.jsonl"
_FOLDERS = ("", "videos")  # of JSONL and conversations
_TEXTS = ("question", "response", "answer")
_PLACEHOLDER = "<video>"
_HUMAN, _MODEL = {"human", "user"}, {"gpt", "assistant"}


def _read_captions(rows: Rows) -> None:
    """Read one caption per video; the template instruction is its question."""
    for where, line in rows.lines(_CAPTIONS):
        with rows.attempt(where):
            path = text_of(line, "video_path", where)
            uid = path.removesuffix(".mp4")
            with rows.attempt(where, uid):
                caption = text_of(line, "motion_caption", where)
                rows.add(uid, where, path, ("MotionBenchCaption-train/videos",), response=caption)


def _read_jsonl(rows: Rows) -> None:
    """Read any `*.jsonl` at the root: `video`, `response`, optional `question`, `options`, `answer`, `type`, `id`.

    `answer` is a letter, or an option's whole text. A video's path counts from the root, or from `videos/`.
    """
    for file in rows.root_files(".jsonl"):
        for where, line in rows.lines(file):
            uid = name_of(line, where)
            with rows.attempt(where, uid):
                path = text_of(line, "video", where)
                texts: dict[str, Any] = {field: text_of(line, field, where, "") for field in _TEXTS}
                options, kind = lettered(list_of(line, "options", where, []), where), text_of(line, "type", where, "")
                texts["answer"] = letter_of(texts["answer"], options, where)
                rows.add(uid, where, path, _FOLDERS, options=options, question_type=kind, **texts)


def _llava_files(rows: Rows) -> list[str]:
    documents = {path: rows.document(path) for path in rows.root_files(".json")}
    lists = {path: items for path, items in documents.items() if isinstance(items, list) and items}
    return [path for path, items in lists.items() if isinstance(items[0], dict) and "conversations" in items[0]]


def _read_llava(rows: Rows) -> None:
    """Read `*.json` at the root, lists of `{video, conversations}`: turn k is a sample with earlier turns 1 … k−1.

    A video's path counts from the root, or from `videos/`.
    """
    for file in _llava_files(rows):
        for where, item in rows.items(file):
            with rows.attempt(where):
                _conversation(rows, item, where)


def _conversation(rows: Rows, item: Any, where: str) -> None:
    uid, path = name_of(item, where), text_of(item, "video", where)
    pairs = _pairs(list_of(item, "conversations", where), where)
    earlier: list[Turn] = []
    for index, (question, response) in enumerate(pairs):
        name = uid if len(pairs) == 1 else f"{uid}#{index + 1}"
        with rows.attempt(where, name):
            if len(earlier) < index:
                raise bad_row("an earlier turn of the conversation is refused", where)
            row = rows.add(name, where, path, _FOLDERS, question=question, response=response, earlier=earlier)
            earlier = [*earlier, Turn(question=row.question, response=row.response)]


def _pairs(turns: list[Any], where: str) -> list[tuple[str, str]]:
    """Return questions and responses in order, the video's placeholder taken out of the first question."""
    if not turns or len(turns) % 2:
        raise bad_row(f"{len(turns)} turns, wanted pairs of question and response", where)
    said = []
    for index, turn in enumerate(turns):
        speaker, due = text_of(turn, "from", where), _MODEL if index % 2 else _HUMAN
        if speaker not in due:
            raise bad_row(f"a turn from {speaker!r} where one from {sorted(due)} was due", where)
        said.append(text_of(turn, "value", where))
    said[0] = said[0].replace(_PLACEHOLDER, "", 1)
    return list(zip(said[::2], said[1::2], strict=True))


CAPTIONS = Layout("motionbench_caption", has(_CAPTIONS), _read_captions)
JSONL = Layout("jsonl", lambda rows: bool(rows.root_files(".jsonl")), _read_jsonl)
LLAVA = Layout("llava", lambda rows: bool(_llava_files(rows)), _read_llava)
