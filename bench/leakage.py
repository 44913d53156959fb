"""Rows of the leakage check: comparing the hashes of large sets, and a fingerprint against reading its frames alone.

Sets are of random hashes, 60 of a video: 5 s at the step's rate. A tenth of 25 000 training videos is compared with all
1 776 of a benchmark, and one planted copy has to be found.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from bench.measure import time_ratio
from bench.reading import FPS, clip
from bench.table import Row
from components.leakage_check.fingerprint import hashes, held, pictures, sampled
from components.leakage_check.matching import Hashes, candidates
from components.media.video import VideoInfo, read_frames

TRAINING, BENCHMARK, TENTH, FRAMES, RATE, BITS = 25_000, 1_776, 10, 60, 12.0, 10


def rows(pairs: int = 3) -> Iterator[Row]:
    """Measure the check's rows of the table."""
    count = TRAINING // TENTH
    ours, theirs = random_sets(count, BENCHMARK)
    ours[7] = Hashes(ours[7].times_n, theirs[5].hashes_n ^ np.uint64(0b1011))
    start = time.monotonic()
    found = candidates(ours, theirs, BITS)
    seconds = time.monotonic() - start
    if found != [(7, 5)]:
        raise RuntimeError(f"{found} in place of the planted copy")
    sizes = f"{TRAINING:,} × {BENCHMARK:,}".replace(",", " ")
    yield Row(
        f"hashes of {sizes} videos of {FRAMES} frames, compared, minutes",
        seconds * TENTH / 60,
        5.0,
        f"{seconds:.1f} s for a tenth",
    )
    with tempfile.TemporaryDirectory() as folder:
        path, info = clip(Path(folder) / "long.mp4")
        indices = [index for index in sampled(info.times, RATE, 10**6) if index < 10 * FPS]
        one, other = partial(fingerprint, path, indices, info), partial(read_frames, path, indices, info)
        yield time_ratio("fingerprint of 10 s of 640 × 480 / reading its frames, time", 2.5, one, other, pairs)


def random_sets(*counts: int) -> list[list[Hashes]]:
    """Return sets of so many videos with random hashes."""
    rng, times_n = np.random.default_rng(0), np.arange(FRAMES) / RATE
    return [
        [Hashes(times_n, hashes_n) for hashes_n in rng.integers(1, 2**63, (count, FRAMES), dtype=np.uint64)]
        for count in counts
    ]


def fingerprint(path: Path, indices: list[int], info: VideoInfo) -> UInt8[np.ndarray, "n R C"]:
    """Return the pictures of a clip, hashed, as the step makes them."""
    found = pictures(read_frames(path, indices, info, held)[..., 0])
    hashes(found)
    return found
