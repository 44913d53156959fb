"""Decoding and writing video with PyAV: one clock and one rotation for the video model and for the VLM.

Container headers are not trusted: frame counts, edit lists, variable rates and clips that start late are all settled by
decoding. Times are presentation times in seconds from the first shown frame; a frame's index is its place in
presentation order.
Legend: n frames, H height and W width in pixels after rotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from jaxtyping import Float, UInt8

from components.core.errors import DataError, ParameterError

_REMEDY = "replace the file by one that plays, or remove its rows from the annotations"
T = TypeVar("T", bound=tuple[int, ...])

_CUT_SHARE, _CUT_FRAMES = 0.1, 3  # what may be missing of what the header declares
_MOTION_SIDE = 64  # pixels; enough for "how much changes", and a 1080p clip costs little beyond its decoding


@dataclass(frozen=True)
class VideoInfo:
    """What decoding a whole file found."""

    width: int  # pixels, after rotation
    height: int  # pixels, after rotation
    rotation: int  # degrees that the container asks for, counter-clockwise: 0, 90, 180 or 270
    times: tuple[float, ...]  # presentation time of every frame, seconds from the first
    duration: float  # seconds from the first frame to the end of the last

    @property
    def num_frames(self) -> int:
        """Frames that decode."""
        return len(self.times)


@dataclass(frozen=True)
class Header:
    """A file's header, for cost prediction only: before rotation, `num_frames` and `duration` (seconds) approximate."""

    width: int
    height: int
    num_frames: int
    duration: float


def probe(path: Path | str) -> VideoInfo:
    """Decode the whole file and say what is in it.

    Raises:
        DataError: the file does not decode, has no frames, ends early, or its time stamps or frame sizes are unusable.
    """
    times: list[float] = []
    tail = 0.0
    shape: tuple[int, int, int] | None = None
    for frame in _decode(path):
        rotation = _rotation(frame, path)
        width, height = (frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)
        shape = _same_shape(shape, (width, height, rotation), path)
        if frame.pts is None:
            remedy = "put the stream into a container (mp4, mkv, webm)"
            raise _bad(path, "a frame without a presentation time", remedy)
        times.append(float(frame.pts * frame.time_base))
        tail = float((frame.duration or 0) * frame.time_base)
    if shape is None:
        raise _bad(path, "no frame in the video")
    if any(later < earlier for earlier, later in pairwise(times)):
        raise _bad(path, "presentation times go backwards")
    if tail <= 0 and len(times) > 1:  # some containers keep no duration of the last frame: it lasts as the others do
        tail = (times[-1] - times[0]) / (len(times) - 1)
    duration = times[-1] - times[0] + tail
    if duration <= 0:
        raise _bad(path, "zero-length video")
    _refuse_cut(path, times, tail)
    return VideoInfo(*shape, tuple(time - times[0] for time in times), duration)


def header(path: Path | str) -> Header:
    """Size, approximate frame count and duration without decoding (packets are counted where the header is silent).

    Raises:
        DataError: not a video file, an empty one, or one of a codec without a decoder.
    """
    with _open(path) as (container, stream):
        codec = stream.codec_context
        rate = float(stream.average_rate or 0)
        own = float(stream.duration * stream.time_base) if stream.duration else 0.0
        duration = own or float(container.duration or 0) / float(av.time_base)
        count = int(stream.frames or round(duration * rate))
        if not (count := count or sum(1 for packet in container.demux(stream) if packet.size)):
            raise _bad(path, "no frame in the video")
        return Header(codec.width, codec.height, count, duration or count / (rate or 25.0))


def read_frames(path: Path | str, indices: Sequence[int]) -> UInt8[np.ndarray, "n H W 3"]:
    """Frames by index, in the order asked for; indices may repeat and need not be sorted. RGB, upright.

    Decoding runs from the start: seeking lands on other frames in files with edit lists or open groups of pictures.

    Raises:
        ParameterError: no index, or a negative one.
        DataError: the file does not decode, or has fewer frames than asked for.
    """
    if not len(indices) or min(indices) < 0:
        problem = f"frame indices {list(indices)[:8]}"
        raise ParameterError(problem, source=str(path), remedy="give at least one index, none negative")
    wanted, last = set(indices), max(indices)
    found: dict[int, np.ndarray] = {}
    count = 0
    for count, frame in enumerate(_decode(path), start=1):
        if count - 1 in wanted:
            found[count - 1] = _upright(frame, path)
            _same_shape(next(iter(found.values())).shape, found[count - 1].shape, path)
        if count > last:
            break
    if count <= last:
        problem = f"frame {last} was asked for, the video has {count}"
        raise _bad(path, problem, "run the import again for this file")
    return np.ascontiguousarray(np.stack([found[index] for index in indices]))


def iterate_frames(path: Path | str) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Every frame in turn, RGB, upright: for what looks at a whole clip and keeps little of it.

    Raises:
        DataError: the file does not decode.
    """
    for frame in _decode(path):
        yield np.ascontiguousarray(_upright(frame, path))


def motion_profile(path: Path | str) -> Float[np.ndarray, " n"]:
    """Return each frame's change from the one before: mean |difference| of small grey pictures, 0 to 255, first 0.

    Raises:
        DataError: the file does not decode.
    """
    profile: list[float] = []
    earlier: np.ndarray | None = None
    for frame in _decode(path):
        picture = frame.reformat(width=_MOTION_SIDE, height=_MOTION_SIDE, format="gray").to_ndarray().astype(np.float64)
        profile.append(0.0 if earlier is None else float(np.abs(picture - earlier).mean()))
        earlier = picture
    return np.asarray(profile)


def write_mp4(path: Path | str, frames: UInt8[np.ndarray, "n H W 3"], fps: float, crf: int = 10) -> None:
    """Write H.264 (yuv420p) at a constant rate; equal input gives equal bytes under one build of x264.

    Raises:
        ParameterError: no frames, odd sides (yuv420p halves both), or a rate that is not positive.
    """
    if frames.ndim != 4 or not len(frames) or frames.shape[1] % 2 or frames.shape[2] % 2 or fps <= 0:
        problem = f"cannot write frames of shape {frames.shape} at {fps} fps"
        raise ParameterError(problem, source=str(path), remedy="give [n,H,W,3] frames with even sides")
    rate = Fraction(fps).limit_denominator(60000)
    with av.open(str(path), "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        options = {"crf": str(crf), "threads": "1", "x264-params": "cpu-independent=1"}
        stream: Any = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


def _bad(path: Path | str, problem: str, remedy: str = _REMEDY) -> DataError:
    return DataError(problem, source=str(path), remedy=remedy)


@contextmanager
def _open(path: Path | str) -> Iterator[tuple[Any, Any]]:
    """Open the container and its first video stream; libav's errors become DataErrors that name the file.

    A stream without a decoder is refused here: PyAV 17 dies of a segmentation fault when it decodes one.
    """
    try:
        with av.open(str(path), mode="r") as container:
            if not container.streams.video:
                raise _bad(path, "no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise _bad(path, "the video does not decode: no decoder for its codec")
            yield container, stream
    except av.FFmpegError as error:
        raise _bad(path, f"the video does not decode: {error}") from error


def _decode(path: Path | str) -> Iterator[Any]:
    with _open(path) as (container, stream):
        yield from container.decode(stream)


def _refuse_cut(path: Path | str, times: Sequence[float], tail: float) -> None:
    """Refuse by its header a file that was cut between two packets: it decodes without an error."""
    with _open(path) as (container, stream):
        if container.format.name.startswith("mov"):  # an edit list hides frames and shifts durations: see their places
            size = Path(path).stat().st_size
            missing = sum(entry.pos + entry.size > size for entry in stream.index_entries)
        else:
            missing = _missing_frames(container, stream, times, tail)
    about = len(times) + missing
    if missing > max(_CUT_FRAMES, _CUT_SHARE * about):
        raise _bad(path, f"the file ends early: {len(times)} of about {about} frames decode")


def _missing_frames(container: Any, stream: Any, times: Sequence[float], tail: float) -> int:
    """Frames between the last one and the end that the header declares, at the clip's mean rate."""
    declared = 0.0  # where the header declares none (libav would estimate one)
    if container.format.name == "avi":  # its count: libav fits an AVI's durations to the size of the file
        declared = float(stream.frames * stream.time_base)
    elif container.format.name.startswith("matroska"):
        declared = float(container.duration or 0) / float(av.time_base)
    end = max(times[-1], times[-1] - times[0]) + tail
    longest = max((later - earlier for earlier, later in pairwise(times)), default=declared)
    slack = _CUT_FRAMES * longest  # a last frame may stay long
    if end + slack < declared and not stream.duration:  # the duration is the file's, and its sound may be longer
        packets = (packet for packet in container.demux() if packet.pts is not None)
        ends = ((packet.pts + (packet.duration or 0)) * packet.time_base for packet in packets)
        end = max(end, float(max(ends, default=0)))
    return round((declared - end) / (times[-1] - times[0] + tail) * len(times)) if end + slack < declared else 0


def _rotation(frame: Any, path: Path | str) -> int:
    rotation: int = round(frame.rotation) % 360
    if rotation % 90:
        raise _bad(path, f"rotation by {rotation} degrees", "re-encode the clip upright")
    return rotation


def _upright(frame: Any, path: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    return np.rot90(frame.to_ndarray(format="rgb24"), _rotation(frame, path) // 90)


def _same_shape(expected: T | None, found: T, path: Path | str) -> T:
    if expected is not None and expected != found:
        raise _bad(path, f"the frame size changes from {expected} to {found}", "re-encode the clip at one size")
    return found
