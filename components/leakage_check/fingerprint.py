"""A video's fingerprint: small grey pictures at a steady rate, and a 64-bit difference hash (dHash) of each.

A picture is the frame without its black bars, averaged over 16 × 18 cells. A bit of the hash says that a cell of 8 × 9
is darker than its right neighbour by more than a margin: what a flat area holds of noise sets no bit. Averages survive
another codec, size or rate; frames are taken by time, so a part of the clip shows what the whole shows there.

Legend: n frames, H W pixels, h w pixels of a frame as it is held, R C rows and columns of a small picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8, UInt64

ROWS, COLS = 16, 18  # of a small picture
HELD = (128, 144)  # rows and columns of a frame while its bars are looked for
_MARGIN = 2.0  # grey levels of 255 by which neighbours have to differ
_DARK = 24  # grey level that a black bar never exceeds
_THIN = 3  # rows (columns) of HELD that a bar has at least


def sampled(times: Sequence[float], rate: float, most: int) -> list[int]:
    """Return the indices of the frames nearest to every 1/rate seconds; of a long clip `most`, spread evenly."""
    times_n = np.asarray(times, dtype=np.float64)
    step = max(1 / rate, float(times_n[-1]) / max(1, most - 1))
    wanted = np.arange(int(times_n[-1] / step + 1e-6) + 1) * step
    return [int(index) for index in np.unique(nearest(times_n, wanted))]


def nearest(times_n: Float[np.ndarray, " n"], wanted_m: Float[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Return the index of the time that is nearest to each wanted one; of two, the earlier. Times are in order."""
    middles = (times_n[1:] + times_n[:-1]) / 2
    found: np.ndarray = np.searchsorted(middles, wanted_m)
    return found


def held(frame_HW3: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return a frame as it is held: grey (in all three channels), averaged over HELD cells."""
    stride = max(1, min(frame_HW3.shape[0] // (2 * HELD[0]), frame_HW3.shape[1] // (2 * HELD[1])))  # enough are left
    red, green, blue = (frame_HW3[::stride, ::stride, channel].astype(np.uint16) for channel in range(3))
    grey_HW = (77 * red + 150 * green + 29 * blue) >> 8
    small_hw = _averaged(grey_HW[None], *HELD)[0].round().astype(np.uint8)
    return np.repeat(small_hw[..., None], 3, axis=2)


def pictures(held_nhw: UInt8[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "n R C"]:
    """Return a clip's small pictures, without its black bars."""
    rows, cols = bars(held_nhw)
    return _averaged(held_nhw[:, rows, cols], ROWS, COLS).round().astype(np.uint8)


def bars(held_nhw: UInt8[np.ndarray, "n h w"]) -> tuple[slice, slice]:
    """Return the rows and columns of a clip inside its black bars: dark in every frame, as wide on both sides."""
    peak_hw = held_nhw.max(0)
    rows, cols = (_inside(peak_hw.max(axis) > _DARK) for axis in (1, 0))
    return rows, cols


def hashes(pictures_nRC: UInt8[np.ndarray, "n R C"]) -> UInt64[np.ndarray, " n"]:
    """Return the dHash of each picture: bit by bit, row by row, whether a cell is darker than its right neighbour."""
    n = len(pictures_nRC)
    cells = pictures_nRC.astype(np.float32).reshape(n, ROWS // 2, 2, COLS // 2, 2).mean((2, 4))
    bits = np.diff(cells, axis=2) > _MARGIN
    return np.packbits(bits.reshape(n, 64), axis=1).view(">u8")[:, 0].astype(np.uint64)


def _inside(lit: np.ndarray) -> slice:
    """Return where a picture is lit, if what is dark on both sides looks like bars; else all of it."""
    size, places = len(lit), np.flatnonzero(lit)
    if len(places):
        first, last = int(places[0]), int(places[-1]) + 1
        if first >= _THIN and size - last >= _THIN and abs(first - (size - last)) <= 2 and last - first >= size // 4:
            return slice(first, last)
    return slice(0, size)


def _averaged(grey_nHW: Shaped[np.ndarray, "n H W"], rows: int, cols: int) -> Float[np.ndarray, "n rows cols"]:
    """Return the means over cells of equal area; a pixel on a border counts for both of its cells by its share."""
    return _means(_means(grey_nHW, rows, 1), cols, 2)


def _means(values: np.ndarray, cells: int, axis: int) -> np.ndarray:
    """Return the means along an axis over parts of equal length, from the sum up to each border."""
    size = values.shape[axis]
    borders = np.linspace(0, size, cells + 1)
    whole = borders.astype(np.int64)
    share = (borders - whole).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
    sums = np.insert(np.cumsum(values, axis, dtype=np.float64), 0, 0.0, axis)
    upto = np.take(sums, whole, axis) + share * np.take(values, np.minimum(whole, size - 1), axis)
    means: np.ndarray = np.diff(upto, axis=axis) * cells / size
    return means
