"""Decoding and writing video with PyAV: one clock and one upright picture for the video model and for the VLM.

Container headers are not trusted: frame counts, edit lists, variable rates and clips that start late are all settled by
decoding. Times are presentation times in seconds from the first shown frame; a frame's index is its place in
presentation order. A still picture (`picture.py`) is one frame at time 0.
Legend: n frames, H height and W width in pixels as shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from jaxtyping import Float, UInt8

from components.core.errors import ParameterError
from components.core.records import Clip, MediaKind, Part, Video
from components.media.container import bad, decode, open_video, times_are_guessed
from components.media.damage import watched
from components.media.display import Display, Screen
from components.media.ending import refuse_cut
from components.media.picture import inspect_picture, is_picture, picture_size, read_picture
from components.media.seeking import frames_at

T = TypeVar("T")

_MOTION_SIDE = 64  # pixels; enough for "how much changes", and a 1080p clip costs little beyond its decoding


@dataclass(frozen=True)
class VideoInfo:
    """What decoding a whole file found."""

    width: int  # pixels, as shown
    height: int  # pixels, as shown
    rotation: int  # degrees that the container asks for, counter-clockwise: 0, 90, 180 or 270
    mirrored: bool  # whether left and right change places after that
    times: tuple[float, ...]  # presentation time of every frame, seconds from the first
    duration: float  # seconds from the first frame to the end of the last
    corrupt: int  # frames that the decoder does not vouch for
    kind: MediaKind = "video"

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
    kind: MediaKind = "video"


def probe(path: Path | str) -> VideoInfo:
    """Decode the whole file and say what is in it.

    Raises:
        DataError: the file does not decode, has no frames, ends early, or its time stamps or frame sizes are unusable.
    """
    if is_picture(path):
        found = inspect_picture(path)
        turned = (found.width, found.height, found.rotation, found.mirrored)
        return VideoInfo(*turned, (0.0,), 0.0, int(found.damaged), "image")
    times: list[float] = []
    tail = 0.0
    shape: Display | None = None
    screen = Screen(path)
    with watched() as damage, open_video(path) as (container, stream):
        stream.codec_context.thread_count = 1  # files are decoded side by side; warnings come from this thread
        for frame in container.decode(stream):
            damage.add(frame)
            shape = _same_shape(shape, screen.display(frame, stream.sample_aspect_ratio), path)
            if frame.pts is None:
                raise bad(
                    path, "a frame without a presentation time", "put the stream into a container (mp4, mkv, webm)"
                )
            times.append(float(frame.pts * frame.time_base))
            tail = float((frame.duration or 0) * frame.time_base)
        damage.end()
        if times_are_guessed(container, stream):  # frames are in order: a constant rate is all that an AVI says
            times, tail = _by_rate(len(times), stream.average_rate, path)
    if shape is None:
        raise bad(path, "no frame in the video")
    if any(later < earlier for earlier, later in pairwise(times)):
        raise bad(path, "presentation times go backwards")
    if tail <= 0 and len(times) > 1:  # some containers keep no duration of the last frame: it lasts as the others do
        tail = (times[-1] - times[0]) / (len(times) - 1)
    duration = times[-1] - times[0] + tail
    if duration <= 0:
        raise bad(path, "zero-length video")
    refuse_cut(path, times, tail)
    relative = tuple(time - times[0] for time in times)
    return VideoInfo(shape.width, shape.height, shape.rotation, shape.mirrored, relative, duration, damage.frames)


def header(path: Path | str) -> Header:
    """Size, approximate frame count and duration without decoding (packets are counted where the header is silent).

    Raises:
        DataError: not a video file, an empty one, or one of a codec without a decoder.
    """
    if is_picture(path):
        return Header(*picture_size(path), 1, 0.0, "image")
    with open_video(path) as (container, stream):
        codec = stream.codec_context
        rate = float(stream.average_rate or 0)
        own = float(stream.duration * stream.time_base) if stream.duration else 0.0
        duration = own or float(container.duration or 0) / float(av.time_base)
        count = int(stream.frames or round(duration * rate))
        if not (count := count or sum(1 for packet in container.demux(stream) if packet.size)):
            raise bad(path, "no frame in the video")
        return Header(codec.width, codec.height, count, duration or count / (rate or 25.0))


def read_frames(
    path: Path | str,
    indices: Sequence[int],
    known: VideoInfo | Clip | None = None,
    resize: Callable[[UInt8[np.ndarray, "H W 3"]], UInt8[np.ndarray, "h w 3"]] | None = None,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Return frames by index, in the order asked for; indices may repeat and need not be sorted. RGB, upright.

    With what the import found (`known`), their size is checked; where that has their times, frames are sought from key
    frame to key frame, and are those of decoding from the start. Where it is a part of the file, indices count the
    part's frames. Each frame goes through `resize` as it is read: only the result is held.

    Raises:
        ParameterError: no index, or a negative one.
        DataError: the file does not decode, has fewer frames than asked for, or another size than known.
    """
    if not len(indices) or min(indices) < 0:
        problem = f"frame indices {list(indices)[:8]}"
        raise ParameterError(problem, source=str(path), remedy="give at least one index, none negative")
    places: dict[int, list[int]] = {}
    for place, index in enumerate(indices):
        places.setdefault(index, []).append(place)
    expected = (known.height, known.width, 3) if known else None
    held: np.ndarray | None = None
    for index, picture_HW3 in _pictures(path, sorted(places), known):
        if known and picture_HW3.shape != expected:
            size = f"{picture_HW3.shape[1]} × {picture_HW3.shape[0]}"
            problem = f"frames of {size} pixels, {known.width} × {known.height} in the manifest"
            raise bad(path, problem, "rerun dataset_import for this video")
        expected = _same_shape(expected, picture_HW3.shape, path)
        picture = resize(picture_HW3) if resize else picture_HW3
        if held is None:
            held = np.empty((len(indices), *picture.shape), dtype=np.uint8)
        held[places[index]] = picture
    assert held is not None
    return held


def _pictures(
    path: Path | str, wanted: Sequence[int], known: VideoInfo | Clip | None
) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Yield each wanted index of the clip with its picture; they are sorted and differ."""
    if is_picture(path):
        if wanted[-1] > 0:
            raise bad(path, f"frame {wanted[-1]} was asked for, a picture has 1", "run the import again for this file")
        yield 0, read_picture(path)
        return
    # concealment repeats what came before
    times = known.times if isinstance(known, VideoInfo | Video) and not known.corrupt else None
    screen, part = Screen(path), known.part if isinstance(known, Clip) else None
    for index, frame, stream in frames_at(path, wanted, times, part):
        yield index, screen.upright(frame, stream.sample_aspect_ratio)


def iterate_frames(path: Path | str, part: Part | None = None) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Every frame of a video or its part in turn, RGB, upright: for what looks at a whole clip and keeps little of it.

    Raises:
        DataError: the file does not decode.
    """
    screen = Screen(path)
    with open_video(path) as (container, stream):
        for frame in _of_part(container.decode(stream), part):
            yield screen.upright(frame, stream.sample_aspect_ratio)


def _of_part(frames: Iterator[Any], part: Part | None) -> Iterator[Any]:
    return islice(frames, part.first, part.first + part.count) if part else frames


def motion_profile(path: Path | str, part: Part | None = None) -> Float[np.ndarray, " n"]:
    """Return each frame's change from the one before: mean |difference| of small grey pictures, 0 to 255, first 0.

    Raises:
        DataError: the file does not decode.
    """
    profile: list[float] = []
    earlier: np.ndarray | None = None
    for frame in _of_part(decode(path), part):
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


def _by_rate(count: int, rate: Fraction | None, path: Path | str) -> tuple[list[float], float]:
    """Return the times of `count` frames at a constant rate, and how long the last one stays."""
    if not rate:
        raise bad(path, "neither presentation times nor a frame rate", "put the stream into a container with times")
    return [float(index / rate) for index in range(count)], float(1 / rate)


def _same_shape(expected: T | None, found: T, path: Path | str) -> T:
    if expected is not None and expected != found:
        raise bad(path, f"the frame size changes from {expected} to {found}", "re-encode the clip at one size")
    return found
