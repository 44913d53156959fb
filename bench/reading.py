"""Rows of reading a few frames out of a long clip: against a bare reader that seeks for each, and in bytes returned.

The clip is 5 minutes of 640 × 480 at 25 frames per second, H.264 with key frames 250 apart, as x264 places them. The
bare reader knows the times too: for each frame it seeks to the key frame before it and decodes up to it, with no check
and nothing shared between frames. Both are shown to return the same frames before anything is measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from bench.measure import MIB, peak_bytes, time_ratio
from bench.table import Row
from components.media.sampling import spread
from components.media.video import VideoInfo, probe, read_frames
from components.models.vlm.pixels import resized

SECONDS, FPS, HEIGHT, WIDTH, COUNT, MANY = 300, 25, 480, 640, 49, 490
VIEW = (252, 336)  # pixels of a frame as a VLM sees it


def rows(pairs: int = 3) -> Iterator[Row]:
    """Measure the reading's rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        path, info = clip(Path(folder) / "long.mp4")
        indices = spread(info.num_frames, COUNT)
        if not np.array_equal(read_frames(path, indices, info), bare(path, indices, info)):
            raise RuntimeError("the reader and the bare one do not return the same frames")
        one, other = partial(read_frames, path, indices, info), partial(bare, path, indices, info)
        yield time_ratio(f"{COUNT} frames of a {SECONDS} s clip / bare seeking reader, time", 1.3, one, other, pairs)
        whole, view = 3 * HEIGHT * WIDTH * COUNT, 3 * VIEW[0] * VIEW[1] * MANY
        yield _memory(f"{COUNT} frames, peak memory / what is returned", f"reading:whole:{path}", whole)
        yield _memory(f"{MANY} frames resized while reading, the same", f"reading:view:{path}", view)


def _memory(name: str, case: str, returned: int) -> Row:
    peak = peak_bytes(case)
    return Row(name, peak / returned, 1.2, f"{peak / MIB:.0f} MiB / {returned / MIB:.0f} MiB")


def work(what: str, path: str) -> Callable[[], object]:
    """Return the work of a case on the clip: `whole` reads frames as they are, `view` many at a VLM's size."""
    info = probe(path)
    if what == "whole":
        return partial(read_frames, path, spread(info.num_frames, COUNT), info)
    resize = partial(resized, height=VIEW[0], width=VIEW[1])
    return partial(read_frames, path, spread(info.num_frames, MANY), info, resize)


def clip(path: Path, seconds: int = SECONDS) -> tuple[Path, VideoInfo]:
    """Write the clip: a noisy ground that drifts."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 255, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "g": "250", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index in range(seconds * FPS):
            picture = np.ascontiguousarray(np.roll(ground, 2 * index, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path, probe(path)


def bare(path: Path, indices: list[int], info: VideoInfo) -> UInt8[np.ndarray, "n H W 3"]:
    """Read each frame by a seek of its own."""
    found = []
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        for index in indices:
            wanted = round(info.times[index] / float(stream.time_base))
            container.seek(wanted, stream=stream)
            frame = next(frame for frame in container.decode(stream) if frame.pts >= wanted)
            found.append(frame.to_ndarray(format="rgb24"))
    return np.stack(found)
