"""Intervals and tests for means over items that share videos: of one model, of two on the same items, of measures.

One percentile bootstrap over videos (clusters) for every mean: Overall (over all items), Average (mean over the task
types) and each type, of values or of paired differences. Besides it Wilson's interval for a share, McNemar's exact
test, Holm's correction, and the smallest difference that n paired questions can show. numpy and math only; shares are
fractions of 1; all randomness is seeded. Lists of several lengths and numbers outside their range raise DataError, the
latter ParameterError in `minimal_detectable_difference`.

Legend: n items, V videos, K task types, C = 2K columns (sums, then counts), D draws, M = 2 + K measures.
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
_BLOCK = 200_000  # resampled videos held at once: few enough for the processor's cache
_TAIL = (1 - 0.95) / 2
Z_95 = NormalDist().inv_cdf(1 - _TAIL)  # a normal variable is within ±Z_95 with 95 %


@dataclass(frozen=True)
class Estimate:
    """A value over `n` items of `clusters` videos with its 95 % interval; no interval from fewer than two videos."""

    value: float
    low: float | None
    high: float | None
    n: int
    clusters: int

    @property
    def percent(self) -> Estimate:
        """Return the estimate in percent."""
        low, high = (None if bound is None else 100 * bound for bound in (self.low, self.high))
        return Estimate(100 * self.value, low, high, self.n, self.clusters)


@dataclass(frozen=True)
class Means:
    """Means over all items (micro), over the types' means (macro) and of each task type."""

    overall: Estimate
    average: Estimate
    by_type: dict[str, Estimate]


def wilson(correct: int, n: int) -> Estimate:
    """Return Wilson's score interval of a share of independent items; (0, 1) around nothing for n = 0."""
    if not 0 <= correct <= n:
        raise DataError(f"{correct} right of {n}", source="accuracy", remedy="count again")
    if n == 0:
        return Estimate(0.0, 0.0, 1.0, 0, 0)
    share, spread = correct / n, Z_95 * Z_95 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n, n)


def bootstrap(
    values: Sequence[float], videos: Sequence[str], types: Sequence[str], *, seed: int = 0, draws: int = DRAWS
) -> Means:
    """Return means with intervals from resampling whole videos, as items of one video are not independent.

    No items, or lists of several lengths, raise DataError.
    """
    _same_length(values, videos, types)
    names, type_n = np.unique(np.asarray(types), return_inverse=True)
    clusters, video_n = np.unique(np.asarray(videos), return_inverse=True)
    shape = (len(names), len(clusters))
    cell_n = type_n * len(clusters) + video_n
    sums_KV = np.bincount(cell_n, np.asarray(values, np.float64), math.prod(shape)).reshape(shape)
    counts_KV = np.bincount(cell_n, minlength=math.prod(shape)).reshape(shape)
    totals_CV = np.concatenate([sums_KV, counts_KV.astype(np.float64)])
    point_M = _measures(totals_CV.sum(1)[None])[0]
    bounds = np.nanquantile(_measures(_resampled(totals_CV, seed, draws)), [_TAIL, 1 - _TAIL], axis=0)

    def estimate(index: int, counts_V: np.ndarray) -> Estimate:
        many = int((counts_V > 0).sum())
        low, high = map(float, bounds[:, index]) if many > 1 else (None, None)
        return Estimate(float(point_M[index]), low, high, int(counts_V.sum()), many)

    by_type = {str(name): estimate(2 + k, counts_KV[k]) for k, name in enumerate(names)}
    return Means(estimate(0, counts_KV.sum(0)), estimate(1, counts_KV.sum(0)), by_type)


def mean_interval(values: Sequence[float], videos: Sequence[str], *, seed: int = 1, draws: int = DRAWS) -> Estimate:
    """Return the mean of `values` with its interval over videos; errors as `bootstrap`."""
    return bootstrap(values, videos, [""] * len(values), seed=seed, draws=draws).overall


def _same_length(*lists: Sequence[object]) -> None:
    lengths = {len(values) for values in lists}
    if len(lengths) != 1 or lengths == {0}:
        problem = f"lists of {sorted(lengths)} items"
        raise DataError(problem, source="bootstrap", remedy="give one value of each per item, and at least one item")


def _resampled(totals_CV: Float[np.ndarray, "C V"], seed: int, draws: int) -> Float[np.ndarray, "D C"]:
    """Return the columns' sums over each draw's videos."""
    rng, many, found = np.random.default_rng(seed), totals_CV.shape[1], []
    block = max(1, _BLOCK // many)
    for start in range(0, draws, block):
        chosen = rng.integers(many, size=(min(block, draws - start), many))
        found.append(np.stack([column.take(chosen).sum(1) for column in totals_CV], axis=1))
    return np.concatenate(found)


def _measures(totals_DC: Float[np.ndarray, "D C"]) -> Float[np.ndarray, "D M"]:
    """Return Overall, Average, each type; a type that a draw misses is NaN there and left out of its Average."""
    sums_DK, counts_DK = np.split(totals_DC, 2, axis=1)
    by_type = np.divide(sums_DK, counts_DK, out=np.full_like(sums_DK, np.nan), where=counts_DK > 0)
    overall = sums_DK.sum(1) / counts_DK.sum(1)
    return np.column_stack([overall, np.nanmean(by_type, axis=1), by_type])


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return p of McNemar's exact two-sided test of two models on the same items: a fair coin per discordant pair."""
    _same_length(first, second)
    lost, won = (sum(a > b for a, b in zip(*pair, strict=True)) for pair in ((first, second), (second, first)))
    tail = sum(math.comb(lost + won, k) for k in range(min(lost, won) + 1))  # exact integers
    return float(min(1.0, 2 * tail / 2 ** (lost + won)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the given order."""
    if any(not 0 <= p <= 1 for p in p_values):
        raise DataError(f"p-values {list(p_values)}", source="Holm", remedy="give probabilities")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def minimal_detectable_difference(n: int, discordant: float, power: float = 0.8, design_effect: float = 1.0) -> float:
    """Return the smallest difference of two accuracies that a paired test on `n` items finds with the given power.

    The test is two-sided, α = 5 %. Solves δ √n = z_{1−α/2} √ψ + z_{power} √(ψ − δ²), with ψ the share of discordant
    items, and n divided by the design effect of clustering (variance of the clustered over the independent estimate).
    """
    if n < 1 or not 0 < discordant <= 1 or not 0 < power < 1 or design_effect <= 0:
        problem = f"n={n}, discordant={discordant:g}, power={power:g}, design_effect={design_effect:g}"
        raise ParameterError(problem, source="minimal detectable difference", remedy="give n ≥ 1 and shares in (0, 1)")
    beyond, size = NormalDist().inv_cdf(power), n / design_effect
    # squaring gives (n + z_β²) δ² − 2 z_α √(nψ) δ + (z_α² − z_β²) ψ = 0; the root on z_β's side
    a, b, c = size + beyond**2, -2 * Z_95 * math.sqrt(size * discordant), (Z_95**2 - beyond**2) * discordant
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return min((-b + math.copysign(root, beyond)) / (2 * a), math.sqrt(discordant))
