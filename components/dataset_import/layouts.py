"""How training sources are written: MotionBench's captions, conversations, preferences, captions, one's own rows.

All but the first are recognized by the names of their rows' fields, whatever their files are called. A row without one
video (an image, text alone) can have no motion prior: it is counted by its kind and set aside. The layouts of published
benchmarks are in the benchmarks' own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from components.benchmarks.rows import Layout, Rows, bad_row, has, letter_of, lettered, list_of, name_of, text_of
from components.core.errors import DataError, ParameterError
from components.core.records import Turn

_CAPTIONS = "MotionBenchCaption-train/train.jsonl"
_TEXTS = ("question", "response", "answer")
_PLACEHOLDERS = ("<video>", "<image>")  # LLaVA-Video writes the second one for a video
_HUMAN, _MODEL = {"human", "user"}, {"gpt", "assistant"}
_WHOLE = "-1"  # ShareGPT4Video's index of the caption of the whole video
_MOST_FILES = 1000  # JSON files of one depth that are looked into

Read = Callable[[Rows, Any, str, tuple[str, ...]], None]  # of a row: rows, its value, where it stands, video folders


# Which files hold rows, and how they are written ----------------------------------------------------------------------


def layout_of(rows: Rows, path: str) -> str:
    """Return the name of the layout that a file's rows have, by the names of their fields; empty for none.

    A JSONL file at the root holds one's own rows unless it is of another layout; those of a benchmark are all such.
    """
    own = path.endswith(".jsonl") and "/" not in path
    if rows.protocol:
        return "jsonl" if own else ""
    names = rows.names(path)
    if {"chosen", "rejected"} <= names:
        return "preferences"
    if "conversations" in names:
        return "llava"
    if "messages" in names:
        return "messages"
    if "captions" in names and names & {"video_id", "video_path"}:
        return "sharegpt4video"
    return "jsonl" if own or ("video" in names and names & {"response", "caption", "answer"}) else ""


def depths(rows: Rows) -> Iterator[dict[str, list[str]]]:
    """Yield the annotation files by layout: those at the source's root, then those of each depth of folders below.

    Raises:
        ParameterError: so many JSON files at one depth that they can hardly be annotations.
    """
    levels: dict[int, list[str]] = {}
    for path in sorted(rows.files):
        if path.endswith((".json", ".jsonl")):
            levels.setdefault(path.count("/"), []).append(path)
    for _, paths in sorted(levels.items()):
        if len(paths) > _MOST_FILES:
            problem = f"{len(paths)} JSON files side by side, {paths[0]} first: which ones are the annotations?"
            remedy = "give the folder that holds the annotations, or put them at the source's root"
            raise ParameterError(problem, source=rows.backend.uri, remedy=remedy)
        found: dict[str, list[str]] = {}
        for path in paths:
            if name := layout_of(rows, path):
                found.setdefault(name, []).append(path)
        if found:
            yield found


def check_annotations(rows: Rows) -> None:
    """Raise DataError where a JSON file is damaged or empty: for a source in which no layout was found."""
    paths = sorted(
        (path for path in rows.files if path.endswith((".json", ".jsonl"))), key=lambda path: path.count("/")
    )
    for path in paths[:_MOST_FILES]:
        problem = "the annotation file is empty" if rows.files[path].size == 0 else ""
        if path.endswith(".json"):
            rows.document(path)
        elif not problem and not any(True for _ in rows.lines(path)) and rows.rejected:
            problem = f"no line of it is JSON; {rows.rejected[0].unit}: {rows.rejected[0].reason}"
        if problem:
            raise DataError(problem, source=f"{rows.backend.uri}/{path}", remedy="complete or correct the file")


def _at_root(name: str) -> Callable[[Rows], bool]:
    """Return the check whether the root has annotations of a layout; among too many JSON files it has none."""

    def present(rows: Rows) -> bool:
        files = [*rows.root_files(".json"), *rows.root_files(".jsonl")]
        return len(files) <= _MOST_FILES and any(layout_of(rows, path) == name for path in files)

    return present


def _reader(name: str, read_row: Read) -> Callable[[Rows], None]:
    """Return the reader of all files of a layout: those of the depth nearest to the root that has some.

    A video's path counts from the root, from the annotation file's folder, or from `videos/` in either.
    """

    def read(rows: Rows) -> None:
        files = next((found[name] for found in depths(rows) if name in found), [])
        if not files:
            check_annotations(rows)
            remedy = "complete the source, or name its layout"
            raise DataError(f"no annotation file in the layout {name!r}", source=rows.backend.uri, remedy=remedy)
        for file in files:
            parent = str(PurePosixPath(file).parent)
            folders = ("", "videos") if parent == "." else ("", "videos", parent, f"{parent}/videos")
            for where, row in rows.lines(file) if file.endswith(".jsonl") else rows.items(file):
                with rows.attempt(where):
                    read_row(rows, row, where, folders)

    return read


# Rows of each layout --------------------------------------------------------------------------------------------------


def _read_captions(rows: Rows) -> None:
    """Read one caption per video; the template instruction is its question."""
    for where, line in rows.lines(_CAPTIONS):
        with rows.attempt(where):
            path = text_of(line, "video_path", where)
            uid = path.removesuffix(".mp4")
            with rows.attempt(where, uid):
                caption = text_of(line, "motion_caption", where)
                rows.add(uid, where, path, ("MotionBenchCaption-train/videos",), response=caption)


def _own_row(rows: Rows, row: Any, where: str, folders: tuple[str, ...]) -> None:
    """Read `video`, `response` or `caption`, optional `question`, `options`, `answer`, `type`, `id`."""
    uid = name_of(row, where)
    with rows.attempt(where, uid):
        images = [] if rows.protocol else _media(row, "image", where)
        path = text_of(row, "video", where, "" if images else None)
        if images:
            rows.aside["a video and an image" if path else "an image"] += 1
            return
        texts: dict[str, Any] = {field: text_of(row, field, where, "") for field in _TEXTS}
        if caption := text_of(row, "caption", where, ""):
            if texts["response"] not in ("", caption):
                raise bad_row("a response and another caption", where)
            texts["response"] = caption
        options, kind = lettered(list_of(row, "options", where, []), where), text_of(row, "type", where, "")
        texts["answer"] = letter_of(texts["answer"], options, where)
        rows.add(uid, where, path, folders, options=options, question_type=kind, **texts)


def _preference(rows: Rows, row: Any, where: str, folders: tuple[str, ...]) -> None:
    """Read `video`, `question` or `prompt`, and `chosen`, which is learned; `rejected` is not."""
    uid = name_of(row, where)
    with rows.attempt(where, uid):
        if path := _one_video(rows, row, where):
            question = text_of(row, "question", where, "") or text_of(row, "prompt", where)
            response = text_of(row, "chosen", where)
            rows.add(uid, where, path, folders, _without_placeholder(question), response=response)


def _video_captions(rows: Rows, row: Any, where: str, folders: tuple[str, ...]) -> None:
    """Read `video_path` (or `video_id`) and of `captions` the one of the whole video."""
    path = text_of(row, "video_path", where, "") or text_of(row, "video_id", where)
    uid = text_of(row, "video_id", where, path)
    with rows.attempt(where, uid):
        captions = list_of(row, "captions", where)
        texts = [text_of(one, "content", where) for one in captions]
        whole = [text for text, one in zip(texts, captions, strict=True) if str(one.get("idx")) == _WHOLE]
        if len(whole) != 1:
            raise bad_row(f"{len(whole)} captions of the whole video (idx {_WHOLE}), wanted one", where)
        unzipped = PurePosixPath(text_of(row, "zip_folder", where, "")).stem  # e.g. panda_videos_1
        rows.add(uid, where, path, (*folders, unzipped, unzipped.partition("_")[0]), response=whole[0])


def _conversation(turns: str, speaker: str, text: str) -> Read:
    """Return the reader of a conversation: turn k is a sample with earlier turns 1 … k−1.

    `turns`, `speaker` and `text` are the names of their fields.
    """

    def read(rows: Rows, row: Any, where: str, folders: tuple[str, ...]) -> None:
        said = list_of(row, turns, where)
        path = _one_video(rows, row, where, [text_of(turn, text, where, "") for turn in said])
        if not path:
            return
        if text_of(row, "system", where, ""):
            raise _system_turn(where)
        pairs, uid = _pairs(said, speaker, text, where), name_of(row, where)
        earlier: list[Turn] = []
        for index, (question, response) in enumerate(pairs):
            name = uid if len(pairs) == 1 else f"{uid}#{index + 1}"
            with rows.attempt(where, name):
                if len(earlier) < index:
                    raise bad_row("an earlier turn of the conversation is refused", where)
                made = rows.add(name, where, path, folders, question=question, response=response, earlier=earlier)
                earlier = [*earlier, Turn(question=made.question, response=made.response)]

    return read


def _pairs(turns: list[Any], speaker: str, text: str, where: str) -> list[tuple[str, str]]:
    """Return questions and responses in order, the video's placeholder taken out of the first question."""
    speakers = [text_of(turn, speaker, where) for turn in turns]
    if "system" in speakers:
        raise _system_turn(where)
    if not turns or len(turns) % 2:
        raise bad_row(f"{len(turns)} turns, wanted pairs of question and response", where)
    for index, name in enumerate(speakers):
        if name not in (due := _MODEL if index % 2 else _HUMAN):
            raise bad_row(f"a turn from {name!r} where one from {sorted(due)} was due", where)
    said = [text_of(turn, text, where) for turn in turns]
    said[0] = _without_placeholder(said[0])
    return list(zip(said[::2], said[1::2], strict=True))


def _system_turn(where: str) -> DataError:
    return bad_row("a system turn: a sample is a question and its response, no model is given another prompt", where)


def _without_placeholder(question: str) -> str:
    mark = next((mark for mark in _PLACEHOLDERS if mark in question), "")
    return question.replace(mark, "", 1)


# Media of a row -------------------------------------------------------------------------------------------------------


def _one_video(rows: Rows, row: Any, where: str, said: Sequence[str] = ()) -> str:
    """Return the path of a row's video; a row with no video or several is set aside by its kind, and has none.

    Raises:
        DataError: no video, although the text has the placeholder of one.
    """
    videos, images = _media(row, "video", where), _media(row, "image", where)
    if len(videos) == 1 and not images:
        return videos[0]
    if not videos and not images:
        if found := next((mark for mark in _PLACEHOLDERS if any(mark in text for text in said)), ""):
            raise bad_row(f"{found} in a row without a field 'video'", where)
        kind = "text alone"
    elif videos:
        kind = "a video and an image" if images else "several videos"
    else:
        kind = "an image"
    rows.aside[kind] += 1
    return ""


def _media(row: Any, name: str, where: str) -> list[str]:
    """Return the paths in a row's field of this name, or of its plural: one text or a list of them."""
    if not isinstance(row, dict):
        raise bad_row(f"not a JSON object but {type(row).__name__}", where)
    found: list[str] = []
    for field in (name, f"{name}s"):
        value = row.get(field)
        values = value if isinstance(value, list) else [value]
        if wrong := [one for one in values if not isinstance(one, str | None)]:
            raise bad_row(f"field {field!r} holds {type(wrong[0]).__name__}, wanted str", where)
        found += [one for one in values if one]
    return found


CAPTIONS = Layout("motionbench_caption", has(_CAPTIONS), _read_captions)
JSONL = Layout("jsonl", _at_root("jsonl"), _reader("jsonl", _own_row))
LLAVA = Layout("llava", _at_root("llava"), _reader("llava", _conversation("conversations", "from", "value")))
MESSAGES = Layout("messages", _at_root("messages"), _reader("messages", _conversation("messages", "role", "content")))
VIDEO_CAPTIONS = Layout("sharegpt4video", _at_root("sharegpt4video"), _reader("sharegpt4video", _video_captions))
PREFERENCES = Layout("preferences", _at_root("preferences"), _reader("preferences", _preference))
BY_ROWS = (JSONL, LLAVA, MESSAGES, VIDEO_CAPTIONS, PREFERENCES)  # recognized by the names of their rows' fields
