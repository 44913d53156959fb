"""Rows of annotation files: how a layout reads them, and each row's text, options and answer checked once.

What a model would read differently from a person (control tokens, empty text, a letter without its option) is refused
here, row by row: a bad row is named with its file and line, the others go on.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from components.core.errors import DataError
from components.core.json_text import parse_json
from components.core.records import Option, Sample, Turn
from components.core.text import clean, sample_id
from components.media.parts import Seconds
from components.store.backend import Backend, Listed
from components.store.zipped import Packed

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# "A. Apples.", "(A) Apples", "A) Apples", "A: Apples", full-width marks alike
_OWN_LETTER = re.compile(r"(?:[(（]([A-Z])[)）][.:]?|([A-Z])[.):．）：、])\s*(?=\S)", re.IGNORECASE)
# what a row's video name without extension may stand for
_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv", ".3gp")
_HEAD = 1 << 16  # bytes of an annotation file that say how its rows are written
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}\n]', re.DOTALL)
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A sample's fields without its id, which needs the video's sha256; `where` is its file and line."""

    uid: str
    where: str
    question: str
    is_instruction: bool
    options: tuple[Option, ...]
    response: str
    answer: str
    earlier: tuple[Turn, ...]
    question_type: str
    protocol: str
    labels: Mapping[str, str]
    source: str = ""  # what a recipe calls it
    weight: float = 1.0

    def id(self, video_sha256: str) -> str:
        """Return the sample's id, once its video is known by content."""
        return sample_id(video_sha256, self.question, self.options, self.response, self.earlier)

    def sample(self, video_sha256: str) -> Sample:
        """Return the sample, once its video is known by content."""
        name = self.id(video_sha256)
        return Sample(id=name, **{field: value for field, value in vars(self).items() if field != "where"})


class Media(NamedTuple):
    """What a row is about, if not one whole file: a part of a file, or still frames in their order."""

    paths: tuple[str, ...]
    part: Seconds | None = None


class Rejected(NamedTuple):
    """A row that cannot be used, and why."""

    unit: str
    reason: str


@dataclass
class Rows:
    """The rows of one source by video path: a layout reads its annotation files here and adds their rows.

    The first of the declared template instructions stands where a training row has no question. `protocol` is the
    benchmark's, empty for training; `task_type` is its own, which raises DataError for an item of an unknown type.
    `aside` counts rows that are neither taken nor bad, by kind; `annotations` are the files whose rows were read,
    `notes` what else a person should know of the source. `packed` are the members of the source's zip files, `media`
    what lies behind a name of `by_video` that is no path.
    """

    backend: Backend
    files: Mapping[str, Listed]
    instructions: Sequence[str]
    protocol: str = ""
    task_type: Callable[[str, str], str] | None = None
    by_video: dict[str, list[Row]] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    aside: Counter[str] = field(default_factory=Counter)
    packed: Mapping[str, Packed] = field(default_factory=dict)
    media: dict[str, Media] = field(default_factory=dict)

    @cached_property
    def folders(self) -> dict[str, list[str]]:
        """Names of the files in each folder of the source, those in zip files as well."""
        found: dict[str, list[str]] = {}
        for path in sorted({*self.files, *self.packed}):
            found.setdefault(str(PurePosixPath(path).parent), []).append(PurePosixPath(path).name)
        return found

    def find(self, path: str) -> Listed | None:
        """Return the file of this path, loose or inside a zip file; None if there is none.

        Raises:
            DataError: both are there with other sizes, or the one in the zip file cannot be read.
        """
        loose, packed = self.files.get(path), self.packed.get(path)
        if loose is None and packed is not None and packed.problem:
            raise bad_row(f"{packed.problem} ({packed.archive.path})", path)
        if loose is not None and packed is not None and loose.size != packed.size:
            raise bad_row(f"{path} is there with other sizes, as a file and inside {packed.archive.path}", path)
        return loose or packed

    annotations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _names: dict[str, frozenset[str]] = field(default_factory=dict)

    def names(self, path: str) -> frozenset[str]:
        """Return the names of the rows' fields in the beginning of a JSON or JSONL file, however damaged it is."""
        if path not in self._names:
            data = self.backend.read(path, 0, _HEAD) or b""
            encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
            found, depth = set(), 0
            for token in _TOKEN.finditer(data.decode(encoding, "replace")):
                if token[0] == "\n":
                    depth = 0 if path.endswith(".jsonl") else depth
                elif token[0] in "{}":
                    depth = max(0, depth + (1 if token[0] == "{" else -1))
                elif token[2] and depth == 1:
                    found.add(token[1])
            self._names[path] = frozenset(found)
        return self._names[path]

    def root_files(self, suffix: str) -> list[str]:
        """Return the files at the source's root with this suffix, sorted."""
        return sorted(path for path in self.files if "/" not in path and path.endswith(suffix))

    def one_of(self, *paths: str) -> str:
        """Return the first of these files that the source has, or the first; DataError if it has two that differ."""
        found = [path for path in paths if path in self.files]
        if len({self._text(path) for path in found}) > 1:
            problem, remedy = f"{' and '.join(found)} differ", "keep one of them"
            raise DataError(problem, source=self.backend.uri, remedy=remedy)
        return (found or [*paths])[0]

    def document(self, path: str) -> Any:
        """Return a JSON file of the source; DataError if it is missing, not UTF-8, or not JSON."""
        try:
            return parse_json(self._text(path))
        except ValueError as error:
            source = f"{self.backend.uri}/{path}"
            raise DataError(f"not JSON: {error}", source=source, remedy="correct the file") from error

    def items(self, path: str) -> list[tuple[str, Any]]:
        """Return place (`file:number`) and value of each item of a JSON list; errors as `document`."""
        value = self.document(path)
        if not isinstance(value, list):
            problem = f"the file holds {type(value).__name__}, wanted a list"
            raise DataError(problem, source=path, remedy="correct the file")
        self.annotations.append(path)
        return [(f"{path}:{number}", item) for number, item in enumerate(value, start=1)]

    def lines(self, path: str) -> Iterator[tuple[str, Any]]:
        """Yield place (`file:line`) and value of each line of a JSONL file; a line that is not JSON is a bad row."""
        self.annotations.append(path)
        # not splitlines(): JSON strings may hold U+2028 and other separators unescaped
        for number, line in enumerate(self._text(path).split("\n"), start=1):
            if line.strip():
                try:
                    value = parse_json(line)
                except ValueError as error:
                    self.rejected.append(Rejected(f"{path}:{number}", f"not JSON: {error}"))
                else:
                    yield f"{path}:{number}", value

    @contextmanager
    def attempt(self, where: str, uid: str = "") -> Iterator[None]:
        """Record a bad row of this block by its name and place; by place alone if the name cannot be written."""
        try:
            yield
        except DataError as error:
            named = uid not in ("", where) and uid.isprintable()
            self.rejected.append(Rejected(f"{uid} ({where})" if named else where, error.problem))

    def add(
        self,
        uid: str,
        where: str,
        path: str,
        folders: Sequence[str] = ("",),
        question: str = "",
        *,
        response: str = "",
        options: Sequence[tuple[str, str]] = (),
        answer: str = "",
        earlier: Sequence[Turn] = (),
        question_type: str = "",
        part: Seconds | None = None,
        frames: Sequence[str] = (),
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> Row:
        """Check one row and keep it; `path` is the row's own name of its video, in one of the layout's `folders`.

        `part`: the row is about this part of it. `frames`: it is made of these still frames, named as `path` is.
        Options that all carry their letter in their text are stored without it. `labels`: what a benchmark's submission
        file repeats of the row.

        Raises:
            DataError: text that a model would read as control tokens or that cannot be written, nothing to ask or to
                learn, an answer that is no option's letter, a task type that its benchmark does not have, a path that
                leaves the source.
        """
        source = f"{uid} ({where})"
        for text in (uid, path, question_type, *labels.values()):
            clean(text, source)  # checked only: a path stays what the listing calls it
        video = self._media(path, folders, source, part, frames)
        cleaned = _options(options, source)
        question, response = clean(question, source), clean(response, source)
        if answer and answer not in {option.letter for option in cleaned}:
            raise bad_row(f"answer {answer!r} is not among the options {[option.letter for option in cleaned]}", source)
        if answer and not response:
            response = next(f"{option.letter}. {option.text}" for option in cleaned if option.letter == answer)
        if self.protocol and not (question and cleaned):
            raise bad_row("a benchmark item needs a question and options", source)
        if self.task_type is not None:
            self.task_type(question_type, source)
        if not (self.protocol or response):
            empty = "the response is empty (held out?): nothing to learn from"
            raise bad_row(empty if question else "question and response are empty", source)
        question, kind = question or self.instructions[0], question_type.strip()
        is_instruction = question in self.instructions
        texts = (question, is_instruction, cleaned, response, answer, tuple(earlier))
        row = Row(uid, where, *texts, kind, self.protocol, dict(labels))
        self.by_video.setdefault(video, []).append(row)
        return row

    def _text(self, path: str) -> str:
        data, source = self.backend.get(path), f"{self.backend.uri}/{path}"
        if data is None:
            remedy = "complete the source, or name its layout"
            raise DataError("the annotation file is missing", source=source, remedy=remedy)
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8: {error}", source=source, remedy="convert the file") from error

    def _media(
        self, path: str, folders: Sequence[str], source: str, part: Seconds | None, frames: Sequence[str]
    ) -> str:
        """Return the name that rows about one thing share: the file's path, that of a part, or that of still frames."""
        if not frames and part is None:
            return self._locate(path, folders, source)
        paths = tuple(self._locate(name, folders, source) for name in frames or (path,))
        gone = [one for one in paths if self.find(one) is None]
        if 0 < len(gone) < len(paths):
            raise bad_row(f"{len(gone)} of {len(paths)} frames are not in the source, as {gone[0]}", source)
        media = Media(paths, part)
        name = f"{paths[0]}#t={part.start:g},{part.end:g}" if part else f"{path} ({len(paths)} frames)"
        if self.media.setdefault(name, media) != media:  # other frames of one folder
            name = f"{name} from {paths[0]}"
            if self.media.setdefault(name, media) != media:
                raise bad_row(f"other frames than of another row: {name}", source)
        return name

    @cached_property
    def _roots(self) -> list[str]:
        """The ways in which a row may write the source's own address before its video's path."""
        uri = self.backend.uri
        local = unquote(uri.removeprefix("file://")) if uri.startswith("file://") else ""
        return [f"{root}/" for root in (uri, *([local, os.path.realpath(local)] if local else []))]

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        """The video files by their path without extension."""
        found: dict[str, list[str]] = {}
        for path in sorted({*self.files, *self.packed}):
            stem, extension = os.path.splitext(path)
            if extension.lower() in _VIDEOS:
                found.setdefault(stem, []).append(path)
        return found

    def _locate(self, path: str, folders: Sequence[str], source: str) -> str:
        """Return where the video is; if it is nowhere, the first place, which is then reported as missing.

        An absolute path inside the source counts from its root; a name without extension is the one video so called.
        """
        inside = next((path.removeprefix(root) for root in self._roots if path.startswith(root)), path)
        pure = PurePosixPath(inside)
        if not pure.name or pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
            raise bad_row(f"video path {path!r} leaves the source", source)
        places = list(dict.fromkeys(str(PurePosixPath(folder) / pure) for folder in folders))
        found = [place for place in places if self.find(place) is not None]
        found = found or [file for place in places for file in self._by_stem.get(place, ())]
        if len(found) > 1:
            raise bad_row(f"two files for one video: {found[0]} and {found[1]}", source)
        return found[0] if found else places[0]


@dataclass(frozen=True)
class Layout:
    """One way to write annotations: its name, whether a source has such files, and their reader.

    `training`: whether a training source may be written so, too.
    """

    name: str
    present: Callable[[Rows], bool]
    read: Callable[[Rows], None]
    training: bool = True


def has(*paths: str) -> Callable[[Rows], bool]:
    """Return the check whether a source has one of these files."""
    return lambda rows: any(path in rows.files for path in paths)


def lettered(options: Sequence[Any], where: str) -> list[tuple[str, str]]:
    """Return options (letter, text) of texts, which get letters here, or of `{letter, text}` objects."""
    return [
        (LETTERS[index % len(LETTERS)], option)
        if isinstance(option, str)
        else (text_of(option, "letter", where), text_of(option, "text", where))
        for index, option in enumerate(options)
    ]


def unlettered(texts: Sequence[str]) -> list[str]:
    """Return the options' texts without the letters that they carry: as they are unless all do, in order from A."""
    found = [_OWN_LETTER.match(text) for text in texts]
    carried = [(mark[1] or mark[2]).upper() for mark in found if mark is not None]
    if carried != list(LETTERS[: len(texts)]):
        return list(texts)
    return [text[mark.end() :] for text, mark in zip(texts, found, strict=True) if mark is not None]


def letter_of(answer: str, options: Sequence[tuple[str, str]], where: str) -> str:
    """Return the letter of an answer that is given as one, or as an option's whole text, its letter with it or not.

    What is neither is returned as it is, for `Rows.add` to refuse. DataError: the text of several options, or a letter
    and the text of another option.
    """
    plain = unlettered([text for _, text in options])
    fits = [letter for (letter, text), bare in zip(options, plain, strict=True) if answer in (text, bare)]
    letters = [letter for letter, _ in options if letter == answer]
    found = sorted({*letters, *fits})
    if len(found) > 1:
        raise bad_row(f"answer {answer!r} may be any of the options {found}", where)
    return found[0] if answer and found else answer


def bad_row(problem: str, source: str) -> DataError:
    """Return the error of a row that cannot be used."""
    return DataError(problem, source=source, remedy="correct the row, or remove it")


def text_of(row: Any, name: str, where: str, default: str | None = None) -> str:
    """Return a text field of a JSON object; DataError if it is missing without a default, or holds something else."""
    return _typed(row, name, str, where, default)


def list_of(row: Any, name: str, where: str, default: list[Any] | None = None) -> list[Any]:
    """Return a list field of a JSON object; errors as `text_of`."""
    return _typed(row, name, list, where, default)


def name_of(row: Any, where: str, field: str = "id") -> str:
    """Return the row's own name, its `id` or another field (text or a whole number), or where it stands."""
    value = row.get(field) if isinstance(row, dict) else None
    return str(value) if isinstance(value, (str, int)) and value != "" else where


def _typed(row: Any, name: str, kind: type[T], where: str, default: T | None) -> T:
    if not isinstance(row, dict):
        raise bad_row(f"not a JSON object but {type(row).__name__}", where)
    value = default if row.get(name) is None else row[name]
    if value is None:
        raise bad_row(f"no field {name!r}", where)
    if not isinstance(value, kind):
        raise bad_row(f"field {name!r} is {type(value).__name__}, wanted {kind.__name__}", where)
    return value


def _options(options: Sequence[tuple[str, str]], source: str) -> tuple[Option, ...]:
    texts = unlettered([clean(text, source) for _, text in options])
    cleaned = [(letter, text) for (letter, _), text in zip(options, texts, strict=True)]
    if [letter for letter, _ in cleaned] != list(LETTERS[: len(cleaned)]):
        raise bad_row(f"options are lettered {[letter for letter, _ in cleaned]}, wanted A, B, …", source)
    if len(cleaned) == 1 or not all(text for _, text in cleaned):
        raise bad_row("a question needs at least two options, none of them empty", source)
    return tuple(Option(letter=letter, text=text) for letter, text in cleaned)
