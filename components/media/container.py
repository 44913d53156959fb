"""Opening video files: self-contained containers by list, the one stream that is the video, reasons in plain words.

A text that names other files (a playlist, `ffconcat`) is a container to libav, and so is a picture. Here only the
formats of `FORMATS` are tried, and no file is opened but the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from components.core.errors import DataError

FORMATS = (  # libav's names; none of them refers to another file as it is opened here
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi",
    "mpegts",
    "mpeg",
    "asf",
    "flv",
    "ogg",
    "gif",
    "ivf",
    "mxf",
    "nut",
    "dv",
    "rm",
)
_OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
_REMEDY = "replace the file by one that plays, or remove its rows from the annotations"
_PLAYLISTS = (b"ffconcat version", b"#extm3u", b"[playlist]", b"<mpd", b"<smil")
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body")


def bad(path: Path | str, problem: str, remedy: str = _REMEDY) -> DataError:
    """Return the error that names the file."""
    return DataError(problem, source=str(path), remedy=remedy)


@contextmanager
def open_video(path: Path | str) -> Iterator[tuple[Any, Any]]:
    """Open the container and its video stream; libav's errors become DataErrors that name the file.

    A stream without a decoder is refused here: PyAV 17 dies of a segmentation fault when it decodes one.

    Raises:
        DataError: not a video file, one without a video stream, or one that does not decode.
    """
    opened = False
    try:
        # text in an unknown encoding is no reason to refuse the pictures
        with av.open(str(path), mode="r", options=_OPTIONS, metadata_errors="replace") as container:
            opened = True
            stream = _video_stream(container, path)
            if stream.codec_context is None:
                raise bad(path, "the video does not decode: no decoder for its codec")
            yield container, stream
    except av.FFmpegError as error:
        raise (None if opened else _named(path)) or bad(path, f"the video does not decode: {error}") from error


def decode(path: Path | str) -> Iterator[Any]:
    """Yield every frame of the video, in presentation order.

    Raises:
        DataError: as `open_video`.
    """
    with open_video(path) as (container, stream):
        yield from container.decode(stream)


def times_are_guessed(container: Any, stream: Any) -> bool:
    """Return whether presentation times are libav's guess: an AVI has none, and its frames are not in coded order."""
    return container.format.name == "avi" and bool(stream.codec_context.has_b_frames)


def _video_stream(container: Any, path: Path | str) -> Any:
    """Return the first video stream that is neither cover art nor the still of an animated picture (AVIF)."""
    streams = container.streams.video
    films = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if not films:
        raise bad(path, "no video stream, only cover art" if streams else "no video stream")
    longer = [stream for stream in films if stream.frames != 1]
    return (longer or films)[0]


def _named(path: Path | str) -> DataError | None:
    """Return what a file is that does not open as a video, where its first bytes say so."""
    if not (file := Path(path)).is_file():
        return None
    with file.open("rb") as opened:
        head = opened.read(1024)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    again = "download the file again: the server sent something else in its place"
    if not head:
        return bad(path, "an empty file, not a video", again)
    if text.startswith(b"version https://git-lfs"):
        return bad(path, "a git-lfs pointer, not the video itself", "run `git lfs pull` in the source's repository")
    if text.startswith(_PAGES) or (text.startswith(b"<?xml") and b"<html" in text):
        return bad(path, "an HTML page, not a video", again)
    if text.startswith(_PLAYLISTS) or (text.startswith(b"<?xml") and b"<mpd" in text):
        return bad(path, "a playlist of other files, not a video", "put the videos that it names into the source")
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return bad(path, f"a text, not a video: {head[:40].decode()!r}", again)
    return None
