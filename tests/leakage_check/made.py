"""Clips that are hard to tell apart or to find again: a textured ground, movers on it, a camera that pans."""

import av
import numpy as np

from components.leakage_check.fingerprint import hashes, held, pictures, sampled
from components.leakage_check.matching import Hashes
from components.media.video import probe, read_frames

RATE, MOST, BITS = 12.0, 512, 10  # the step's defaults


def ground(seed, height, width):
    """Smooth noise of several scales, 0 to 255."""
    rng, rows, cols = np.random.default_rng(seed), np.arange(height)[:, None], np.arange(width)[None]
    found = np.zeros((height, width, 3))
    for side in (6, 12, 24, 48):
        coarse = rng.normal(size=(height // side + 2, width // side + 2, 3)) * side
        y, x = rows // side, cols // side
        v, u = (rows / side - y)[..., None], (cols / side - x)[..., None]
        found += (1 - v) * ((1 - u) * coarse[y, x] + u * coarse[y, x + 1])
        found += v * ((1 - u) * coarse[y + 1, x] + u * coarse[y + 1, x + 1])
    return (found - found.min()) / (found.max() - found.min()) * 255


def movie(place, motion, seconds=2.0, fps=25, size=(72, 96), pan=0.0, flat=None, side=18):
    """Frames of one `place` with two movers; another `motion` gives other movers. `flat`: a ground of one colour."""
    height, width = size
    rng, count = np.random.default_rng([motion, 1]), round(seconds * fps)
    wide = ground(place, height, width + int(pan * width * seconds) + 1)
    movers = [(rng.uniform(0, 255, 3), *rng.uniform([0.5, 0.5, 0, 0], [2.5, 2.5, 6, 6])) for _ in range(2)]
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for k in range(count):
        time = k / fps
        left = int(pan * width * time)
        frames[k] = wide[:, left : left + width] if flat is None else flat
        for colour, fast, slow, p, q in movers:
            y = int((height - side) * (0.5 + 0.5 * np.sin(fast * time + p)))
            x = int((width - side) * (0.5 + 0.5 * np.sin(slow * time + q)))
            frames[k, y : y + side, x : x + side] = colour
    return frames


def rescaled(frames, height, width):
    """The frames at another size."""
    made = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]
    return np.stack([frame.reformat(width, height).to_ndarray(format="rgb24") for frame in made])


def letterboxed(frames, bar):
    """The frames with black bars above and below."""
    return np.pad(frames, ((0, 0), (bar, bar), (0, 0), (0, 0)))


def fingerprint(path):
    """A file's hashes and small pictures, as the step makes them."""
    info = probe(path)
    indices = sampled(info.times, RATE, MOST)
    small = pictures(read_frames(path, indices, info, held)[..., 0])
    return Hashes(np.array([info.times[index] for index in indices]), hashes(small)), small
