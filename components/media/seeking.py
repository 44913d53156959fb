"""Frames by index, decoded from the key frame before each one instead of from the start.

A seek is trusted only where it can be checked: the times of all frames are known, the first frame behind it is a key
frame of a codec whose key frames depend on nothing before, and every frame from there on has the next known time. Where
one of these fails, decoding runs from the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
from av.video.frame import PictureType

from components.core.records import Part
from components.media.container import bad, open_video, times_are_guessed

_CONTAINERS = ("mov", "matroska", "avi", "mpegts", "flv")
_INDEXED = {
    "mov": True,
    "avi": True,
    "matroska": False,
}  # an index lists the key frames: from the start, or once sought
_CODECS = ("h264", "hevc", "libdav1d", "av1", "vp8", "vp9", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "flv")
_NEAR = 8  # frames; a seek costs as much
_EARLIER = (0, 32, 256)  # frames before the wanted one that are tried: an index by decoding time may point behind it
_BEFORE = -1  # the place of a frame that lies before the part


class _Lost(Exception):
    """A seek led to a place that the known times do not explain."""


def frames_at(
    path: Path | str, wanted: Sequence[int], times: Sequence[float] | None, part: Part | None = None
) -> Iterator[tuple[int, Any, Any]]:
    """Yield (index, decoded frame, stream) for each wanted index; these are sorted and differ.

    Indices count from the part's first frame where there is a part. `times` are those of the whole clip, in seconds
    from its first frame; without them decoding runs from the start.

    Raises:
        DataError: the file does not decode, or has fewer frames than asked for.
    """
    done = 0
    if times is not None:
        try:
            for found in _by_seeking(path, wanted, times, part):
                yield found
                done += 1
        except _Lost:
            pass  # what was yielded until here was checked
    if done < len(wanted):
        yield from _from_start(path, wanted[done:], part.first if part else 0)


def _from_start(path: Path | str, wanted: Sequence[int], first: int) -> Iterator[tuple[int, Any, Any]]:
    count, last, chosen = 0, wanted[-1], set(wanted)
    with open_video(path) as (container, stream):
        for index, frame in enumerate(container.decode(stream), start=-first):
            count = index + 1
            if index in chosen:
                yield index, frame, stream
            if index == last:
                return
    raise bad(path, f"frame {last} was asked for, the video has {count}", "run the import again for this file")


def _by_seeking(
    path: Path | str, wanted: Sequence[int], times: Sequence[float], part: Part | None
) -> Iterator[tuple[int, Any, Any]]:
    with open_video(path) as (container, stream):
        walk = _Walk(container, stream, times, part)
        for index in wanted:
            yield index, walk.to(index), stream


class _Walk:
    """A place in a video that moves forwards, by decoding or by a seek; frames before the part have no known times."""

    def __init__(self, container: Any, stream: Any, times: Sequence[float], part: Part | None = None) -> None:
        self.container, self.stream, self.times = container, stream, times
        self.offset = part.offset if part else 0.0
        self.number = {time: index for index, time in enumerate(times)}
        kind = container.format.name.split(",")[0]
        known = kind in _CONTAINERS and stream.codec_context.name in _CODECS
        if not known or times_are_guessed(container, stream) or len(self.number) < len(times):
            raise _Lost
        self.lists_keys, self.listed, self.fruitless = kind in _INDEXED, _INDEXED.get(kind, False), _NEAR
        self.frames = container.decode(stream)
        self.frame = next(self.frames, None)
        if self.frame is None or self.frame.pts is None:
            raise _Lost
        self.first, self.index = float(self.frame.pts * self.frame.time_base), -part.first if part else 0

    def to(self, index: int) -> Any:
        """Return the frame of an index that is not before the last one."""
        if index >= len(self.times):
            raise _Lost
        if self._worth_a_seek(index):
            self._seek(index)
        while self.index < index:
            self._step(next(self.frames, None))
        return self.frame

    def _step(self, frame: Any) -> None:
        found, due = None if frame is None else self._number(frame), self.index + 1
        before = found == _BEFORE and due <= 0
        if found != due and not before:
            raise _Lost
        self.frame, self.index = frame, min(due, _BEFORE) if before else due

    def _number(self, frame: Any) -> int | None:
        """Return a frame's index by its time, which is computed as the import did; None for one that is not known."""
        if frame.pts is None:
            return None
        time = float(frame.pts * frame.time_base) - self.first
        return _BEFORE if 0 <= time < self.offset else self.number.get(time - self.offset)

    def _pts(self, index: int) -> int:
        time = self.times[index] if index >= 0 else index / float(self.stream.average_rate or 25)
        return round((max(0.0, time + self.offset) + self.first) / float(self.stream.time_base))

    def _worth_a_seek(self, index: int) -> bool:
        if index - self.index <= self.fruitless:
            return False
        entries = self.stream.index_entries
        if not self.listed or not len(entries):
            return True
        key = entries.search_timestamp(self._pts(index), backward=True, any_frame=False)
        return bool(key < 0 or entries[key].timestamp > self._pts(self.index))

    def _seek(self, index: int) -> None:
        """Go to the last key frame that is shown no later than the wanted frame."""
        for earlier in _EARLIER:
            try:
                target = self._pts(index - earlier)
                self.container.seek(target, stream=self.stream, backward=True, any_frame=False)
            except av.FFmpegError as error:  # this container cannot be sought in
                raise _Lost from error
            self.listed = self.lists_keys
            self.frames = self.container.decode(self.stream)
            # what is shown before the key frame is built on frames that were not read
            key = next((frame for frame in self.frames if frame.key_frame), None)
            found = None if key is None or key.pict_type != PictureType.I or key.is_corrupt else self._number(key)
            if key is not None and found is None:
                raise _Lost
            if found is not None and found <= index:
                if found <= self.index:
                    self.fruitless = max(self.fruitless, index - found)
                self.frame, self.index = key, found
                return
        raise _Lost
