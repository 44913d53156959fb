"""Step 7: intervals and tests for accuracies whose questions share videos, and for two models on the same questions.

Wilson's interval for a share; percentile bootstrap over videos (clusters) for Overall (right / all) and Average (mean
of the types' accuracies), of one model or of the difference of two; McNemar's exact test; Holm's correction; the
smallest difference that n paired questions can show. numpy and math only. Shares are fractions of 1; all randomness is
seeded.

Legend: n items, V videos, K task types, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from components.core.errors import DataError, ParameterError

DRAWS = 10_000
_BLOCK = 2_000_000  # resampled videos held at once


@dataclass(frozen=True)
class Interval:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Overall (micro), Average (macro) and each task type's accuracy, or their differences, with percentile intervals."""

    overall: Interval
    average: Interval
    by_type: dict[str, Interval]
    n: int
    videos: int


@dataclass(frozen=True)
class McNemar:
    """Discordant pairs (only the first right, only the second right) and the exact two-sided p."""

    first_only: int
    second_only: int
    p: float


def wilson(correct: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share; (0, 1) around nothing for n = 0.

    Raises:
        DataError: more right answers than answers.
    """
    if not 0 <= correct <= n:
        raise DataError(f"{correct} right of {n}", source="accuracy", remedy="count again")
    if n == 0:
        return Interval(0.0, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = correct / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(
    correct: Sequence[bool],
    videos: Sequence[str],
    types: Sequence[str],
    *,
    seed: int = 0,
    draws: int = DRAWS,
    confidence: float = 0.95,
) -> Bootstrap:
    """Accuracies with intervals from resampling whole videos, as questions of a video are not independent.

    Raises:
        DataError: no items, or lists of several lengths.
    """
    return _resampled(np.asarray(correct, np.float64), videos, types, seed, draws, confidence)


def paired_bootstrap(
    first: Sequence[bool],
    second: Sequence[bool],
    videos: Sequence[str],
    types: Sequence[str],
    *,
    seed: int = 0,
    draws: int = DRAWS,
    confidence: float = 0.95,
) -> Bootstrap:
    """Differences second − first of two models' accuracies on the same items, resampling whole videos.

    Raises:
        DataError: no items, or lists of several lengths.
    """
    _same_length(first, second, videos, types)
    difference = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    return _resampled(difference, videos, types, seed, draws, confidence)


def _same_length(*lists: Sequence[object]) -> None:
    lengths = {len(values) for values in lists}
    if len(lengths) != 1 or lengths == {0}:
        raise DataError(
            f"lists of {sorted(lengths)} items",
            source="bootstrap",
            remedy="give one value of each an item, and an item at least",
        )


def _resampled(
    values_n: Float[np.ndarray, " n"],
    videos: Sequence[str],
    types: Sequence[str],
    seed: int,
    draws: int,
    confidence: float,
) -> Bootstrap:
    _same_length(values_n.tolist(), videos, types)
    names, type_n = np.unique(np.asarray(types), return_inverse=True)
    clusters, video_n = np.unique(np.asarray(videos), return_inverse=True)
    cell_n = video_n * len(names) + type_n
    shape = (len(clusters), len(names))
    sums_VK = np.bincount(cell_n, values_n, math.prod(shape)).reshape(shape)
    counts_VK = np.bincount(cell_n, minlength=math.prod(shape)).reshape(shape).astype(np.float64)
    point = _measures(sums_VK.sum(0)[None], counts_VK.sum(0)[None])[0]
    drawn = _draw(sums_VK, counts_VK, seed, draws)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
    intervals = [Interval(float(a), float(b), float(c)) for a, b, c in zip(point, low, high, strict=True)]
    by_type = dict(zip((str(name) for name in names), intervals[2:], strict=True))
    return Bootstrap(intervals[0], intervals[1], by_type, len(values_n), len(clusters))


def _draw(
    sums_VK: Float[np.ndarray, "V K"], counts_VK: Float[np.ndarray, "V K"], seed: int, draws: int
) -> Float[np.ndarray, "D 2+K"]:
    """Measures of `draws` resamples: how often each video is drawn, times what it adds."""
    rng = np.random.default_rng(seed)
    many, kinds = sums_VK.shape
    both = np.concatenate([sums_VK, counts_VK], axis=1)
    found = []
    for start in range(0, draws, block := max(1, _BLOCK // many)):
        size = min(block, draws - start)
        chosen = rng.integers(many, size=(size, many)) + np.arange(size)[:, None] * many
        times = np.bincount(chosen.ravel(), minlength=size * many).reshape(size, many)
        total = times.astype(np.float64) @ both
        found.append(_measures(total[:, :kinds], total[:, kinds:]))
    return np.concatenate(found)


def _measures(sums_DK: Float[np.ndarray, "D K"], counts_DK: Float[np.ndarray, "D K"]) -> Float[np.ndarray, "D 2+K"]:
    """Overall, Average, each type; a type that a resample misses is NaN there and left out of its Average."""
    by_type = np.divide(sums_DK, counts_DK, out=np.full_like(sums_DK, np.nan), where=counts_DK > 0)
    overall = sums_DK.sum(1) / counts_DK.sum(1)
    return np.column_stack([overall, np.nanmean(by_type, axis=1), by_type])


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Exact two-sided McNemar test of two models on the same items: the discordant pairs are a fair coin under the null.

    Raises:
        DataError: lists of several lengths.
    """
    _same_length(first, second)
    first_only = sum(a and not b for a, b in zip(first, second, strict=True))
    second_only = sum(b and not a for a, b in zip(first, second, strict=True))
    n, fewer = first_only + second_only, min(first_only, second_only)
    term = tail = 1  # Σ C(n, k) for k ≤ fewer, in exact integers
    for k in range(fewer):
        term = term * (n - k) // (k + 1)
        tail += term
    return McNemar(int(first_only), int(second_only), min(1.0, 2 * tail / 2**n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order.

    Raises:
        DataError: a value outside [0, 1].
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise DataError(f"p-values {list(p_values)}", source="Holm", remedy="give probabilities")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def minimal_detectable_difference(
    n: int, discordant: float, *, alpha: float = 0.05, power: float = 0.8, design_effect: float = 1.0
) -> float:
    """The smallest difference of two accuracies that a paired two-sided test on `n` items finds with the given power.

    Solves δ √n = z_{1−α/2} √ψ + z_{power} √(ψ − δ²), with ψ the share of discordant items, and n divided by the design
    effect of clustering (variance of the clustered over the independent estimate).

    Raises:
        ParameterError: numbers outside their range.
    """
    if n < 1 or not 0 < discordant <= 1 or not 0 < alpha < 1 or not 0 < power < 1 or design_effect <= 0:
        problem = f"n={n}, discordant={discordant:g}, alpha={alpha:g}, power={power:g}, design_effect={design_effect:g}"
        raise ParameterError(
            problem, source="minimal detectable difference", remedy="give a count and shares in (0, 1)"
        )
    normal = NormalDist()
    reach, beyond, size = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power), n / design_effect
    # squaring gives (n + z_β²) δ² − 2 z_α √(nψ) δ + (z_α² − z_β²) ψ = 0; the root on z_β's side
    a, b, c = size + beyond**2, -2 * reach * math.sqrt(size * discordant), (reach**2 - beyond**2) * discordant
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return min((-b + math.copysign(root, beyond)) / (2 * a), math.sqrt(discordant))
