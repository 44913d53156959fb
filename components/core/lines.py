"""Lines of a manifest: a list that lies in parts beside it and is read line by line.

A manifest is a small head; its lines lie in parts of about a thousand videos, as JSON Lines named after their content.
A line that is about a video says only the video's id; the videos, with the times of their frames, stand once in a file
of their own beside the part's lines, in the same order, so that reading joins both by merging. Where a part ends is
decided by a video's id: the parts of a data set do not depend on the shards that made it, and one more video rewrites
one part.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, get_args

from pydantic import Field, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

from components.core.errors import DataError
from components.core.records import Clip, Digest, Json, Record, canonical_json, sha256

L = TypeVar("L", bound=Record)
_VIDEOS = 1024  # in a part, on average
_LINES = 4096  # in a part of lines that are about no video


class Blob(Record):
    """A file beside the heads of manifests: sha256 and bytes of its text, however it is compressed."""

    sha256: Digest
    bytes: int


class VideosBlob(Blob):
    """The videos of a part, each once."""

    count: int


class LinePart(Record):
    """Consecutive lines of a manifest."""

    count: int
    lines: Blob
    videos: VideosBlob | None = Field(None, description="None where the lines are about no video")
    first: str = Field("", description="id of the first line's video")
    last: str = Field("", description="id of the last line's video")


Read = Callable[[Blob], bytes]
Put = Callable[[bytes], None]


def part_path(digest: str) -> str:
    """Return where a part's file lies below a store's root, or in an exported folder, by the sha256 of its text."""
    return f"manifests/parts/{digest}.jsonl.gz"


def part_text(data: bytes | None, digest: str) -> bytes:
    """Return the text of a part's file.

    Raises:
        ValueError: what is wrong with it: it is missing (None) or damaged.
    """
    if data is None:
        raise ValueError("missing")
    try:
        text = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError("damaged") from error
    if sha256(text) != digest:
        raise ValueError("other content")
    return text


class Lines(Generic[L]):
    """Lines of one kind: in memory, or in parts that are read when they are asked for, as often as that happens.

    Iterating holds one part's text and one line at a time. Lines about videos come in the order of (video id, sample
    id), which `position` returns; others as they were given. `given` are lines in memory as they were given.
    """

    def __init__(self, kind: type[L], items: Iterable[L] | None = None, parts: Iterable[LinePart] = ()) -> None:
        self.kind = kind
        self._read: Read = _unread
        self.given = None if items is None else list(items)
        self._items = sorted(self.given, key=position) if self.given and "video" in kind.model_fields else self.given
        self._parts = tuple(parts) if items is None else None

    def __len__(self) -> int:
        return len(self._items) if self._items is not None else sum(part.count for part in self.parts)

    @property
    def videos(self) -> int:
        """How many videos the lines are about."""
        if self._items is not None:
            return len({_video_id(item) for item in self._items})
        return sum(part.videos.count for part in self.parts if part.videos is not None)

    def __iter__(self) -> Iterator[L]:
        return self.within("", "g")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lines) and (self.kind, self.parts) == (other.kind, other.parts)

    __hash__ = None  # type: ignore[assignment]

    @property
    def parts(self) -> tuple[LinePart, ...]:
        """The parts; of lines in memory as they would be written."""
        if self._parts is None:
            self.write(lambda _: None)
        assert self._parts is not None
        return self._parts

    def write(self, put: Put) -> None:
        """Give the texts of lines in memory to `put`; parts that lie elsewhere already are left alone."""
        if self._items is not None:
            self._parts = tuple(write_parts(self._items, put))

    def bind(self, read: Read) -> Lines[L]:
        """Say how a part's text is read."""
        self._read = read
        return self

    def within(self, low: str, high: str) -> Iterator[L]:
        """Yield the lines of videos from id `low` on and below `high`; only parts that hold such ids are read.

        Raises:
            DataError: a part is missing or damaged.
        """
        if self._items is not None:
            yield from (item for item in self._items if low <= _video_id(item) < high)
            return
        for part in self.parts:
            if part.videos is None or (part.first < high and low <= part.last):
                yield from self._lines(part, low, high)

    def _lines(self, part: LinePart, low: str, high: str) -> Iterator[L]:
        texts = self._read(part.lines).splitlines()
        videos = iter(() if part.videos is None else self._read(part.videos).splitlines())
        annotation: Any = self.kind.model_fields["video"].annotation if part.videos else None
        of_video: Any = part.videos and TypeAdapter(annotation)
        video: Clip | None = None
        try:
            for text in texts:
                if of_video is None:
                    yield self.kind.model_validate_json(text)
                    continue
                raw = json.loads(text.decode())  # of bytes it would guess each line's encoding
                if not low <= raw["video"] < high:
                    continue
                while video is None or video.id != raw["video"]:
                    video = of_video.validate_json(next(videos))
                yield self.kind.model_validate(raw | {"video": video})
        except (ValueError, KeyError, TypeError, StopIteration) as error:  # ValidationError is a ValueError
            problem = f"a line is no {self.kind.__name__}: {error}"
            remedy = "use the version that wrote it, or run the step that made it again"
            raise DataError(problem, source=part_path(part.lines.sha256), remedy=remedy) from error

    def head(self) -> Json:
        """Return what a manifest's head says of them."""
        return {"parts": [part.model_dump(mode="json") for part in self.parts]}

    def blobs(self) -> Iterator[Blob]:
        """Yield the files that the parts lie in."""
        for part in self.parts:
            yield from (part.lines, *([part.videos] if part.videos is not None else []))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Accept lines, a list of lines, or what `head` returns; written as `head` returns it."""
        (kind,) = get_args(source)

        def made(value: Any) -> Lines[Any]:
            if isinstance(value, Lines):
                return value
            if isinstance(value, dict) and set(value) == {"parts"}:
                return Lines(kind, parts=TypeAdapter(list[LinePart]).validate_python(value["parts"]))
            return Lines(kind, [kind.model_validate(item) for item in value])

        as_head = core_schema.plain_serializer_function_ser_schema(Lines.head)
        return core_schema.no_info_plain_validator_function(made, serialization=as_head)


def _unread(blob: Blob) -> bytes:
    """Raise an AssertionError: nobody said where the parts lie (`Lines.bind`)."""
    raise AssertionError(f"no store to read {part_path(blob.sha256)} from")


def _video_id(line: Any) -> str:
    return line.video.id if hasattr(line, "video") else ""


def position(line: Any) -> tuple[str, str]:
    """Return what lines about videos are ordered by: the video's id and, where a line is of a sample, the sample's."""
    return line.video.id, line.sample.id if hasattr(line, "sample") else ""


def write_parts(lines: Iterable[Record], put: Put) -> Iterator[LinePart]:
    """Yield the parts that lines make, their texts given to `put`, a part at a time.

    Raises:
        ValueError: lines about videos are not in their order, or two have one place in it.
    """
    texts, videos, ids, last = list[bytes](), list[bytes](), list[str](), ("", "")
    for line in lines:
        if (video := getattr(line, "video", None)) is None:
            texts.append(canonical_json(line.model_dump(mode="json")))
            if len(texts) == _LINES:
                yield _part(texts, videos, ids, put)
            continue
        if (place := position(line)) <= last:
            raise ValueError(f"{type(line).__name__} at {place} behind {last}")
        if ids and place[0] != last[0] and _ends(last[0]):
            yield _part(texts, videos, ids, put)
        if not ids or place[0] != last[0]:
            videos.append(canonical_json(video.model_dump(mode="json")))
        texts.append(canonical_json({**line.model_dump(mode="json", exclude={"video"}), "video": place[0]}))
        ids.append(place[0])
        last = place
    if texts:
        yield _part(texts, videos, ids, put)


def _ends(video_id: str) -> bool:
    """Return whether a part ends behind this video."""
    return int(video_id[-8:], 16) % _VIDEOS == 0


def _part(texts: list[bytes], videos: list[bytes], ids: list[str], put: Put) -> LinePart:
    """Put a part and empty the lists."""
    fields: Json = {"count": len(texts), "lines": Blob(**_put(texts, put))}
    if videos:
        fields |= {"videos": VideosBlob(count=len(videos), **_put(videos, put)), "first": ids[0], "last": ids[-1]}
    for one in (texts, videos, ids):
        one.clear()
    return LinePart(**fields)


def _put(texts: list[bytes], put: Put) -> Json:
    text = b"".join(line + b"\n" for line in texts)
    put(text)
    return {"sha256": sha256(text), "bytes": len(text)}
