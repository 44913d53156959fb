"""Which videos show the same footage: candidates by their hashes, then each candidate by its small pictures.

A candidate is a pair of which one video finds at least half of its key frames in the other one, within a distance of
hashes. Hashes alone cannot tell clips of one scene apart, so a candidate counts only if, at some shift in time, frame
after frame looks alike *and moves alike*: what differs from the mean picture of the shared part correlates. A part of a
clip, another codec, size or rate change neither.

Legend: n m frames of two clips, k key frames, R C rows and columns of a small picture, p pixels of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt64

from components.leakage_check.fingerprint import nearest
from components.media.sampling import spread

KEYS = 8  # key frames of a video
BITS = 64
_BLOCK = (64, 4096)  # hashes that are compared at a time: what fits a processor's cache
_ALIKE = 0.75  # share of the shared frames whose hashes are near
_LOOK = 0.92  # mean correlation of two pictures of the same footage
_SAME = 0.99  # the same where nothing moves, and pictures are all there is
_MOVE = 0.6  # correlation of what moves
_STILL = 1.5  # grey levels², mean over pixels: less is noise of a codec
_FEW = 4  # frames that motion is judged from
_PLAIN = 4.0  # grey levels: a picture with a smaller deviation shows nothing


@dataclass(frozen=True)
class Hashes:
    """A video's hashes in the order of their times (seconds)."""

    times_n: Float[np.ndarray, " n"]
    hashes_n: UInt64[np.ndarray, " n"]

    def key_frames(self) -> UInt64[np.ndarray, " k"]:
        """Return the hashes of its key frames, spread evenly over those that show anything."""
        shown = self.hashes_n[self.hashes_n != 0]
        keys: np.ndarray = shown[spread(len(shown), min(KEYS, len(shown)))] if len(shown) else shown
        return keys


@dataclass(frozen=True)
class Match:
    """Two videos that share footage.

    Attributes:
        distance: mean distance of the shared frames' hashes, bits of 64.
        frames: how many frames of both were compared.
        seconds: how long the shared part is.
        shift: seconds of the second video at which the first one begins.
    """

    distance: float
    frames: int
    seconds: float
    shift: float


def candidates(first: Sequence[Hashes], second: Sequence[Hashes], most: int) -> list[tuple[int, int]]:
    """Return the pairs (of `first`, of `second`) that may share footage.

    Args:
        first: videos.
        second: other videos.
        most: bits by which hashes of the same picture may differ.
    """
    found = set(_with_keys_in(first, second, most))
    found |= {(one, other) for other, one in _with_keys_in(second, first, most)}
    return sorted(found)


def _with_keys_in(keyed: Sequence[Hashes], others: Sequence[Hashes], most: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs (of `keyed`, of `others`) where half of the first one's key frames are in the second one."""
    keys = [video.key_frames() for video in keyed]
    whole = [np.unique(video.hashes_n) for video in others]
    if not keys or not whole:
        return
    keys_k, whole_n = np.concatenate(keys), np.concatenate(whole)
    owner_k, owner_n = (np.repeat(np.arange(len(parts)), [len(part) for part in parts]) for parts in (keys, whole))
    hits = []  # (key frame, video of `others`), coded as one number
    for rows in range(0, len(keys_k), _BLOCK[0]):
        block_k = keys_k[rows : rows + _BLOCK[0], None]
        for cols in range(0, len(whole_n), _BLOCK[1]):
            near = np.bitwise_count(block_k ^ whole_n[None, cols : cols + _BLOCK[1]]) <= most
            if near.any():
                row, col = np.nonzero(near)
                hits.append(np.unique((rows + row) * len(others) + owner_n[cols + col]))
    if not hits:
        return
    coded = np.unique(np.concatenate(hits))
    pairs, count = np.unique(owner_k[coded // len(others)] * len(others) + coded % len(others), return_counts=True)
    for pair, seen in zip(pairs.tolist(), count.tolist(), strict=True):
        one, other = divmod(pair, len(others))
        if 2 * seen >= len(keys[one]):
            yield one, other


def compare(
    first: Hashes,
    second: Hashes,
    pictures_nRC: UInt8[np.ndarray, "n R C"],
    pictures_mRC: UInt8[np.ndarray, "m R C"],
    most: int,
) -> Match | None:
    """Return what a candidate shares: the shift in time at which most frames look and move alike, if there is one."""
    if _step(first.times_n) < _step(second.times_n):  # frames of the thinner one are looked up in the denser one
        found = compare(second, first, pictures_mRC, pictures_nRC, most)
        return found and Match(found.distance, found.frames, found.seconds, -found.shift or 0.0)
    one_np, other_mp = map(_smoothed, (pictures_nRC, pictures_mRC))
    far_nm = np.bitwise_count(first.hashes_n[:, None] ^ second.hashes_n[None]).astype(np.int64)
    look_nm, dot_nm = _standardized(one_np) @ _standardized(other_mp).T, one_np @ other_mp.T
    best: tuple[float, Match] | None = None
    for i, j, shift in _alignments(first.times_n, second.times_n, far_nm <= most):
        far = far_nm[i, j]
        look = float(look_nm[i, j].mean())
        if (far <= most).mean() < _ALIKE or look < _LOOK or (best and best[0] >= look):
            continue
        if _moves_alike(one_np[i], other_mp[j], float(dot_nm[i, j].sum()), look):
            seconds = float(first.times_n[i[-1]] - first.times_n[i[0]]) + _step(second.times_n)
            best = (look, Match(float(far.mean()), len(i), seconds, shift))
    return best and best[1]


def _step(times_n: Float[np.ndarray, " n"]) -> float:
    """Return the seconds between two of a video's hashed frames; 0 where there is one."""
    return float(times_n[-1] - times_n[0]) / max(1, len(times_n) - 1)


def _alignments(
    times_n: np.ndarray, times_m: np.ndarray, near_nm: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Yield frames i of the first clip, those j of the second that show the same, and the shift in seconds.

    Shifts are those of frames that are near each other, in half steps of the denser clip; at least half of the shorter
    clip is shared. Of a picture each frame of the other clip is tried by itself.
    """
    i, j = np.nonzero(near_nm)
    if len(times_m) == 1:
        yield from ((i[k : k + 1], j[k : k + 1], 0.0 - float(times_n[i[k]])) for k in range(len(i)))
        return
    half, thin = _step(times_m) / 2, _step(times_n)
    least = max(1.0, (1 + min(float(times_n[-1]), float(times_m[-1])) / thin) / 2)
    for count in np.unique(((times_m[j] - times_n[i]) / half).round()).tolist():
        wanted_n = times_n + count * half
        j_n = nearest(times_m, wanted_n)
        shared = np.flatnonzero(np.abs(times_m[j_n] - wanted_n) <= half + 1e-6)
        if len(shared) >= least:
            yield shared, j_n[shared], count * half


def _moves_alike(one_np: np.ndarray, other_np: np.ndarray, dot: float, look: float) -> bool:
    """Return whether frames that are shown at the same time move alike; where nothing moves, whether they are equal."""
    count, pixels = one_np.shape
    means = one_np.mean(0), other_np.mean(0)
    moved = [
        float((frames**2).sum() - count * (mean**2).sum())
        for frames, mean in zip((one_np, other_np), means, strict=True)
    ]
    if count < _FEW or max(moved) < _STILL * count * pixels:
        return look >= _SAME and all(float(mean.std()) >= _PLAIN for mean in means)
    together = dot - count * float(means[0] @ means[1])
    return bool(together > 0 and together**2 >= _MOVE**2 * moved[0] * moved[1])


def _smoothed(pictures_nRC: UInt8[np.ndarray, "n R C"]) -> Float[np.ndarray, "n p"]:
    """Return the mean of each picture, the one before and the one after: what moves fast is then never far off."""
    frames_np = pictures_nRC.reshape(len(pictures_nRC), -1).astype(np.float64)
    padded_np = np.pad(frames_np, ((1, 1), (0, 0)), mode="edge")
    return (padded_np[:-2] + padded_np[1:-1] + padded_np[2:]) / 3


def _standardized(frames_np: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
    """Return each frame with mean 0 and length 1; a plain one is 0."""
    centred_np = frames_np - frames_np.mean(1, keepdims=True)
    length_n1 = np.linalg.norm(centred_np, axis=1, keepdims=True)
    plain_n1: Bool[np.ndarray, "n 1"] = length_n1 < _PLAIN * np.sqrt(frames_np.shape[1])
    return np.where(plain_n1, 0.0, centred_np / np.maximum(length_n1, 1e-9))
