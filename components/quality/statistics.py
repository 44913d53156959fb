"""Intervals and tests for means over items that share videos: accuracies, paired differences, measures of a prior.

Items of one video are not independent, so every variance is one between videos. An accuracy gets Wilson's interval on
the effective number of items (Korn & Graubard 1998); a paired difference Bonett & Price's (2012) with one won and one
lost video more, and p of a permutation test that changes the signs of whole videos, with all repeats of a model on
them; a measure a percentile bootstrap over videos. The first two stay sound where all items are equal. Besides: Holm's
correction, the test whether letters are named as often as they are right (Stuart–Maxwell by video), and the smallest
difference that n paired questions can show. numpy and math only; shares are fractions of 1; all randomness is seeded.
Lists of several lengths and numbers outside their range raise DataError, the latter ParameterError in
`minimal_detectable_difference`.

Legend: n items, V videos, K task types, L letters, D patterns of signs, S sums −total … total.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int, Num

from components.core.errors import DataError, ParameterError

DRAWS = 10_000
_BLOCK = 200_000  # random numbers held at once: few enough for the processor's cache
_TAIL = (1 - 0.95) / 2
Z_95 = NormalDist().inv_cdf(1 - _TAIL)  # a normal variable is within ±Z_95 with 95 %


@dataclass(frozen=True)
class Estimate:
    """A value over `n` items of `clusters` videos with its 95 % interval; no interval from fewer than two videos.

    `error` is the standard error of an accuracy or a paired difference, `p` of no difference.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    clusters: int
    error: float | None = None
    p: float | None = None

    @property
    def percent(self) -> Estimate:
        """Return the estimate in percent."""
        low, high, error = (None if one is None else 100 * one for one in (self.low, self.high, self.error))
        return replace(self, value=100 * self.value, low=low, high=high, error=error)


@dataclass(frozen=True)
class Means:
    """Means over all items (micro), over the types' means (macro) and of each task type."""

    overall: Estimate
    average: Estimate
    by_type: dict[str, Estimate]


# Accuracies and paired differences ------------------------------------------------------------------------------------


def accuracy(right: Sequence[float], videos: Sequence[str], types: Sequence[str]) -> Means:
    """Return shares of right items, each with Wilson's interval for as many items as the videos are worth.

    An item may be right in a share of several repeats (a model's seeds); the interval is then rather too wide.
    No items, or lists of several lengths, raise DataError.
    """
    parts = _by_type(right, videos, types)
    overall, by_type = _share(_pooled(parts)), {kind: _share(one) for kind, one in parts.items()}
    average = overall if len(parts) == 1 else _average(overall, list(parts.values()), list(by_type.values()))
    return Means(overall, average, by_type)


def difference(
    before: Sequence[int],
    after: Sequence[int],
    videos: Sequence[str],
    types: Sequence[str],
    *,
    repeats: tuple[int, int] = (1, 1),
    seed: int = 0,
    draws: int = DRAWS,
) -> Means:
    """Return accuracies of the second model minus those of the first on the same items, with errors, intervals and p.

    `before` and `after` count how often each item was right in so many `repeats` of each model (its seeds): an item's
    outcome is the mean over them, so that the repeats of a video stay together. Errors as `accuracy`.
    """
    _same_length(before, after)
    unit = math.lcm(*repeats)  # in parts of it all outcomes are whole numbers, whose test is exact
    first, second = (unit // count for count in repeats)
    change = [second * int(b) - first * int(a) for a, b in zip(before, after, strict=True)]
    parts = _by_type(change, videos, types)
    overall, average, *by_type = (
        _change(one, unit, seed, draws) for one in (_pooled(parts), _weighted(parts), *parts.values())
    )
    return Means(overall, replace(average, n=overall.n), dict(zip(parts, by_type, strict=True)))


@dataclass(frozen=True)
class _Mean:
    """A mean over items from each video's sum and number of items, or from its weighted sum and weight."""

    sums_V: Float[np.ndarray, " V"]
    counts_V: Float[np.ndarray, " V"]

    @property
    def n(self) -> float:
        return float(self.counts_V.sum())

    @property
    def value(self) -> float:
        return float(self.sums_V.sum()) / self.n

    @property
    def weights(self) -> Float[np.ndarray, " V"]:
        return self.counts_V / self.n

    @property
    def deviations(self) -> Float[np.ndarray, " V"]:
        return (self.sums_V - self.value * self.counts_V) / self.n

    @property
    def clusters(self) -> int:
        return int((self.counts_V > 0).sum())

    @property
    def videos(self) -> float:
        """Return how many equally heavy videos would be worth as much (Kish's effective number)."""
        return 1 / float((self.weights**2).sum())

    @property
    def variance(self) -> float:
        """Return the variance of the mean from what differs between videos."""
        return float((self.deviations**2).sum()) * self.videos / (self.videos - 1)


def _by_type(values: Sequence[float], videos: Sequence[str], types: Sequence[str]) -> dict[str, _Mean]:
    """Return each type's mean; every one has a place for each of all videos."""
    _same_length(values, videos, types)
    kinds, type_n = np.unique(np.asarray(types), return_inverse=True)
    clusters, video_n = np.unique(np.asarray(videos), return_inverse=True)
    shape, cell_n = (len(kinds), len(clusters)), type_n * len(clusters) + video_n
    sums_KV = np.bincount(cell_n, np.asarray(values, np.float64), math.prod(shape)).reshape(shape)
    counts_KV = np.bincount(cell_n, minlength=math.prod(shape)).reshape(shape).astype(np.float64)
    return {str(kind): _Mean(*rows) for kind, *rows in zip(kinds, sums_KV, counts_KV, strict=True)}


def _pooled(parts: Mapping[str, _Mean]) -> _Mean:
    """Return the mean over all items."""
    sums_KV, counts_KV = ([getattr(one, name) for one in parts.values()] for name in ("sums_V", "counts_V"))
    return _Mean(np.sum(sums_KV, axis=0), np.sum(counts_KV, axis=0))


def _weighted(parts: Mapping[str, _Mean]) -> _Mean:
    """Return the mean over the types' means; each item weighs as one of so many of its type."""
    if len(parts) == 1:
        return _pooled(parts)
    sums_KV, weights_KV = zip(*((one.sums_V / one.n, one.weights) for one in parts.values()), strict=True)
    return _Mean(np.mean(sums_KV, axis=0), np.mean(weights_KV, axis=0))


def _average(overall: Estimate, parts: Sequence[_Mean], by_type: Sequence[Estimate]) -> Estimate:
    """Return the mean of the types' accuracies, its interval recovered from theirs (MOVER, Zou & Donner 2008).

    Each type adds the square of its interval's part on that side, but at least of the half width: the sum is less
    skewed than its terms. All grow by what sharing videos adds to the variance. A type of one video may be anywhere.
    """
    value = sum(one.value for one in by_type) / len(by_type)
    if overall.low is None:
        return replace(overall, value=value)
    alone = sum(float((one.deviations**2).sum()) for one in parts)
    together = float((np.sum([one.deviations for one in parts], axis=0) ** 2).sum())
    shared = max(1.0, together / alone) if alone > 0 else 1.0
    bounds = [(0.0, 1.0) if one.low is None or one.high is None else (one.low, one.high) for one in by_type]
    centred = list(zip((one.value for one in by_type), bounds, strict=True))
    below, above = (
        math.sqrt(shared * sum(max(abs(mean - pair[side]), (pair[1] - pair[0]) / 2) ** 2 for mean, pair in centred))
        for side in (0, 1)
    )
    low, high = max(0.0, value - below / len(parts)), min(1.0, value + above / len(parts))
    return replace(overall, value=value, low=low, high=high, error=None)


def _share(one: _Mean) -> Estimate:
    """Return an accuracy with Wilson's interval; n of its formula is what gives the variance between videos.

    That variance is as certain as there are videos with a right item, or with a wrong one if those are fewer. The
    interval is no wider than if each video's items agreed wholly and counted once, which is all that is known where all
    items are equal, and no narrower than that of independent items: few videos may differ less than these by chance.
    """
    share = one.value
    if one.clusters < 2:
        return Estimate(share, None, None, round(one.n), one.clusters)
    spread = student(one.videos - 1) ** 2 / one.videos
    informative = min(int((part > 0).sum()) for part in (one.sums_V, one.counts_V - one.sums_V))
    if informative > 1:
        between = student(informative - 1) ** 2 * one.variance / (share * (1 - share))
        spread = min(spread, max(between, Z_95**2 / one.n))
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    low, high, error = max(0.0, centre - half), min(1.0, centre + half), math.sqrt(one.variance)
    return Estimate(share, low, high, round(one.n), one.clusters, error)


def _change(one: _Mean, unit: int, seed: int, draws: int) -> Estimate:
    """Return a difference, given in parts of `unit`, with its permutation test and Bonett & Price's interval.

    The interval counts one video more as won and one as lost, as heavy as those that changed, or if none did as a video
    of the mean weight. It is as certain as there are changed videos, and three: if none changed, it is a little wider
    than what 0 of V videos allow. It holds 0 wherever p is above .05.
    """
    p = sign_flips(one.sums_V, seed=seed, draws=draws)
    one = replace(one, sums_V=one.sums_V / unit)
    if one.clusters < 2:
        return Estimate(one.value, None, None, round(one.n), one.clusters, p=p)
    changed = one.sums_V[one.sums_V != 0] / one.n
    more = math.sqrt(np.square(changed).mean()) if len(changed) else 1 / one.videos
    centre = one.value / (1 + 2 * more)
    error = math.sqrt(one.variance + 2 * more**2) / (1 + 2 * more)
    half = student(min(one.videos - 1, len(changed) + 3)) * error
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    if p > 0.05:
        low, high = min(low, 0.0), max(high, 0.0)
    return Estimate(one.value, low, high, round(one.n), one.clusters, error, p)


def student(df: float) -> float:
    """Return the 97.5 % quantile of Student's t (Abramowitz & Stegun 26.7.5), right to 0.2 % from 3 degrees on."""
    z = Z_95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / df**power for power, term in enumerate(terms, start=1))


# Tests ----------------------------------------------------------------------------------------------------------------


def sign_flips(differences_V: Sequence[float] | Num[np.ndarray, " V"], *, seed: int = 0, draws: int = DRAWS) -> float:
    """Return p of the two-sided permutation test of paired differences: each keeps or changes its sign.

    Exact for whole numbers (of ±1: McNemar's exact test), and for others where their signs have no more than `draws`
    patterns; else p of seeded draws, to which the data counts as one more (Phipson & Smyth 2010).
    """
    found = np.asarray(differences_V, np.float64)
    found = found[found != 0]
    seen = abs(found.sum())
    if np.array_equal(found, np.rint(found)):
        law = _law_of_sums(np.abs(found).astype(int))
        sums = np.arange(len(law)) - len(law) // 2
        return float(min(1.0, law[np.abs(sums) >= seen].sum()))
    others = (2 * (kept @ found) - found.sum() for kept in _patterns(len(found), seed, draws))
    return _share_of_patterns([np.abs(one) >= seen * (1 - 1e-9) for one in others], len(found), draws)


def letter_balance(
    named: Sequence[str], right: Sequence[str], videos: Sequence[str], *, seed: int = 0, draws: int = DRAWS
) -> tuple[float, float]:
    """Return χ² and p of the test that letters are named as often as they are right (Stuart–Maxwell, by video).

    p is of the permutation test that changes the parts of named and right letters in whole videos, as `sign_flips`.
    """
    _same_length(named, right, videos)
    letters, clusters = sorted({*named, *right}), np.unique(np.asarray(videos))
    excess_VL = np.zeros((len(clusters), len(letters)))
    for sign, given in ((1, named), (-1, right)):
        np.add.at(excess_VL, (np.searchsorted(clusters, videos), np.searchsorted(letters, given)), sign)
    excess_VL = excess_VL[excess_VL.any(1)]
    if not len(excess_VL):
        return 0.0, 1.0
    inverse_LL = np.linalg.pinv(excess_VL.T @ excess_VL)

    def chi(total_DL: Float[np.ndarray, "D L"]) -> Float[np.ndarray, " D"]:
        found: np.ndarray = ((total_DL @ inverse_LL) * total_DL).sum(-1)
        return found

    total_L = excess_VL.sum(0)
    seen = float(chi(total_L[None])[0])
    reached = [
        chi(2 * (kept @ excess_VL) - total_L) >= seen * (1 - 1e-9) for kept in _patterns(len(excess_VL), seed, draws)
    ]
    return seen, _share_of_patterns(reached, len(excess_VL), draws)


def _law_of_sums(sizes_V: Int[np.ndarray, " V"]) -> Float[np.ndarray, " S"]:
    """Return the probabilities of the sums of whole numbers with random signs."""
    law = np.ones(1)
    for size, many in zip(*np.unique(sizes_V, return_counts=True), strict=True):
        logs = [math.lgamma(many + 1) - math.lgamma(k + 1) - math.lgamma(many - k + 1) for k in range(many + 1)]
        own = np.zeros(2 * size * many + 1)
        own[:: 2 * size] = np.exp(np.array(logs) - many * math.log(2))
        law = np.convolve(law, own)
    return law


def _patterns(many: int, seed: int, draws: int) -> Iterator[Int[np.ndarray, "D V"]]:
    """Yield which differences keep their signs: every pattern, or that many drawn ones; block by block."""
    exact, rng = 2**many <= draws, np.random.default_rng(seed)
    total, block = (2**many if exact else draws), max(1, _BLOCK // many)
    for start in range(0, total, block):
        rows = min(block, total - start)
        if exact:
            yield np.arange(start, start + rows)[:, None] >> np.arange(many) & 1
        else:
            bits = np.frombuffer(rng.bytes(-(-rows * many // 8)), np.uint8)
            yield np.unpackbits(bits, count=rows * many).reshape(rows, many)


def _share_of_patterns(reached: Sequence[np.ndarray], many: int, draws: int) -> float:
    """Return p from which patterns of `many` signs reach as far as the data: all, or drawn ones and the data."""
    found = np.concatenate(reached)
    return float(found.mean()) if 2**many <= draws else (int(found.sum()) + 1) / (len(found) + 1)


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


# Measures of a prior --------------------------------------------------------------------------------------------------


def mean_interval(
    values: Sequence[float],
    videos: Sequence[str],
    *,
    seed: int = 1,
    draws: int = DRAWS,
    span: tuple[float, float] | None = None,
) -> Estimate:
    """Return the mean of `values` with an interval from resampling whole videos; errors as `accuracy`.

    Where all values are equal, a resample only repeats them: of values that lie in `span` the interval is then what 0
    of V other videos allow, of others there is none. None from one video, either.
    """
    _same_length(values, videos)
    names, video_n = np.unique(np.asarray(videos), return_inverse=True)
    sums_V, counts_V = np.bincount(video_n, np.asarray(values, np.float64)), np.bincount(video_n).astype(np.float64)
    bounds: tuple[float | None, float | None] = (None, None)
    if len(names) > 1 and min(values) < max(values):
        rng, block, means = np.random.default_rng(seed), max(1, _BLOCK // len(names)), []
        for start in range(0, draws, block):
            chosen = rng.integers(len(names), size=(min(block, draws - start), len(names)))
            means.append(sums_V.take(chosen).sum(1) / counts_V.take(chosen).sum(1))
        low, high = np.quantile(np.concatenate(means), [_TAIL, 1 - _TAIL])
        bounds = float(low), float(high)
    elif len(names) > 1 and span is not None:
        others = _share(_Mean(np.zeros(len(names)), counts_V)).high or 0.0
        bounds = values[0] + others * (span[0] - values[0]), values[0] + others * (span[1] - values[0])
    return Estimate(float(sums_V.sum() / counts_V.sum()), *bounds, len(values), len(names))


def _same_length(*lists: Sequence[object]) -> None:
    lengths = {len(values) for values in lists}
    if len(lengths) != 1 or lengths == {0}:
        problem = f"lists of {sorted(lengths)} items"
        raise DataError(problem, source="statistics", remedy="give one value of each per item, and at least one item")
