"""Intervals and tests against scipy and against simulations of the same law."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from components.core.errors import DataError, ParameterError
from components.quality.statistics import (
    bootstrap,
    holm,
    mcnemar,
    mean_interval,
    minimal_detectable_difference,
    wilson,
)


@pytest.mark.parametrize(("correct", "n"), [(34, 64), (0, 10), (10, 10), (126, 400), (2500, 4018)])
def test_wilson_equals_scipy(correct: int, n: int) -> None:
    expected = stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
    found = wilson(correct, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.value == correct / n
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0, 1)


@pytest.mark.parametrize(
    "counts", [(0, 0), (5, 5), (3, 12), (12, 3), (1, 0), (40, 95), (700, 900), (1000, 0), (4000, 0)]
)
def test_mcnemar_equals_scipys_exact_binomial(counts: tuple[int, int]) -> None:
    b, c = counts
    first = [True] * b + [False] * c + [True] * 7 + [False] * 9
    second = [False] * b + [True] * c + [True] * 7 + [False] * 9
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_holm_equals_its_definition() -> None:
    """p̃ of the i-th smallest is max over j ≤ i of min(1, (m − j + 1) p_(j)); checked in every order."""
    p = [0.01, 0.04, 0.03, 0.005]
    expected = {0.005: 0.02, 0.01: 0.03, 0.03: 0.06, 0.04: 0.06}
    for order in itertools.permutations(p):
        assert holm(order) == pytest.approx([expected[value] for value in order])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def clustered(seed, videos=150, each=4, effect=0.25):
    """Right answers whose chance varies by video; the types have different chances and sizes."""
    rng = np.random.default_rng(seed)
    correct, names, types = [], [], []
    for video in range(videos):
        base = rng.uniform(0.5 - effect, 0.5 + effect)
        for _ in range(each):
            kind = rng.choice(3, p=[0.6, 0.3, 0.1])
            correct.append(bool(rng.random() < base + 0.1 * (kind - 1)))
            names.append(f"v{video}")
            types.append("ABC"[kind])
    return correct, names, types


def by_hand(correct: np.ndarray, types: np.ndarray) -> tuple[float, float]:
    return correct.mean(), np.mean([correct[types == kind].mean() for kind in np.unique(types)])


def test_values_are_micro_and_macro() -> None:
    correct, videos, types = clustered(0)
    found = bootstrap(correct, videos, types, draws=100)
    overall, average = by_hand(np.array(correct, float), np.array(types))
    assert (found.overall.value, found.average.value) == pytest.approx((overall, average))
    assert abs(overall - average) > 0.01  # else the test could not tell them apart
    assert {name: interval.value for name, interval in found.by_type.items()} == pytest.approx(
        {kind: np.mean([c for c, t in zip(correct, types, strict=True) if t == kind]) for kind in "ABC"}
    )
    assert (found.overall.n, found.overall.clusters) == (600, 150)


def test_bootstrap_agrees_with_scipys_over_videos() -> None:
    """scipy resamples videos (as objects of their own) and computes both measures by hand from their items."""
    correct, videos, types = clustered(1, videos=80)
    values, kinds, owners = np.array(correct, float), np.array(types), np.array(videos)
    groups = [np.flatnonzero(owners == name) for name in np.unique(owners)]
    found = bootstrap(correct, videos, types, seed=3)
    places, options = (np.arange(len(groups)),), {"method": "percentile", "vectorized": False, "rng": 0}
    for index, interval in ((0, found.overall), (1, found.average)):

        def measure(chosen: np.ndarray, which: int = index) -> float:
            items = np.concatenate([groups[int(i)] for i in chosen])
            return by_hand(values[items], kinds[items])[which]

        expected = stats.bootstrap(places, measure, n_resamples=2000, **options).confidence_interval
        half = (expected.high - expected.low) / 2
        assert interval.low == pytest.approx(expected.low, abs=0.12 * half)
        assert interval.high == pytest.approx(expected.high, abs=0.12 * half)


def test_single_question_videos_give_the_binomial_interval() -> None:
    correct = [True] * 300 + [False] * 200
    found = bootstrap(correct, [str(i) for i in range(500)], ["A"] * 500)
    low, high = stats.binom(500, 0.6).ppf([0.025, 0.975]) / 500
    assert (found.overall.low, found.overall.high) == pytest.approx((low, high), abs=0.003)
    assert found.average == found.overall


def test_clustering_widens_the_interval_and_covers() -> None:
    """Videos of 8 questions whose chance varies from .1 to .9: only the interval over videos covers the truth."""
    truth, covered = 0.5 + 0.1 * (0.6 * -1 + 0.3 * 0 + 0.1 * 1), []
    for seed in range(200):
        correct, videos, _ = clustered(100 + seed, videos=60, each=8, effect=0.4)
        found = bootstrap(correct, videos, ["A"] * len(correct), draws=400, seed=seed).overall
        covered.append([one.low <= truth <= one.high for one in (found, wilson(sum(correct), len(correct)))])
    clustered_share, naive_share = np.mean(covered, axis=0)
    assert clustered_share > 0.9
    assert naive_share < 0.87


def test_seeded_and_independent_of_order() -> None:
    correct, videos, types = clustered(2)
    once = bootstrap(correct, videos, types, seed=5, draws=500)
    assert once == bootstrap(correct, videos, types, seed=5, draws=500)
    assert once != bootstrap(correct, videos, types, seed=6, draws=500)
    assert once == bootstrap(correct[::-1], videos[::-1], types[::-1], seed=5, draws=500)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    correct, videos, types = clustered(4)
    whole = bootstrap(correct, videos, types, draws=3000)
    monkeypatch.setattr("components.quality.statistics._BLOCK", 1000)
    assert bootstrap(correct, videos, types, draws=3000) == whole


def test_a_type_that_a_resample_misses_is_left_out_of_its_average() -> None:
    """Two videos, each with a type of its own, one right and one wrong: half of the draws hold both, Average .5."""
    found = bootstrap([True, False], ["x", "y"], ["A", "B"], draws=2000)
    assert (found.average.low, found.average.value, found.average.high) == (0, 0.5, 1)
    assert (found.by_type["A"].value, found.by_type["A"].low, found.by_type["A"].clusters) == (1, None, 1)


def test_interval_resamples_videos_not_samples():
    values = np.random.default_rng(1).normal(0.6, 0.2, 60)
    names = [str(i) for i in range(60)]
    alone = mean_interval(values.tolist(), names)
    fourfold = mean_interval(np.repeat(values, 4).tolist(), np.repeat(names, 4).tolist())
    assert (fourfold.low, fourfold.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    assert (fourfold.n, fourfold.clusters) == (240, 60)


def test_interval_of_unequal_clusters_is_a_ratio():
    values, names = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    found = mean_interval(values, names, draws=4000)
    assert found.value == 0.75
    assert (found.low, found.high) == (0.0, 1.0)  # both videos drawn twice: {a a}, {b b}


def test_mean_interval_is_scipys_bootstrap():
    values = np.random.default_rng(7).normal(0.05, 0.05, 40)
    found = mean_interval(values.tolist(), [str(i) for i in range(40)])
    expected = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=8).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-3)


@pytest.mark.parametrize(
    ("n", "discordant", "power"),
    [(4018, 0.25, 0.8), (400, 0.3, 0.8), (64, 0.4, 0.5), (1000, 0.2, 0.9), (500, 0.2, 0.3)],
)
def test_minimal_detectable_difference_has_the_power_it_promises(n: int, discordant: float, power: float) -> None:
    """McNemar's z test on simulated pairs with that difference rejects in the promised share."""
    delta = minimal_detectable_difference(n, discordant, power=power)
    draws = np.random.default_rng(0).multinomial(
        n, [(discordant + delta) / 2, (discordant - delta) / 2, 1 - discordant], size=20_000
    )
    z = (draws[:, 0] - draws[:, 1]) / np.sqrt(draws[:, 0] + draws[:, 1])
    assert np.mean(z > stats.norm.ppf(0.975)) == pytest.approx(power, abs=0.03)


@pytest.mark.parametrize("power", [0.3, 0.5, 0.8, 0.99])
def test_minimal_detectable_difference_solves_its_equation(power: float) -> None:
    n, psi = 64, 0.4
    delta = minimal_detectable_difference(n, psi, power=power)
    assert delta * np.sqrt(n) == pytest.approx(
        stats.norm.ppf(0.975) * np.sqrt(psi) + stats.norm.ppf(power) * np.sqrt(psi - delta**2), rel=1e-9
    )


def test_minimal_detectable_difference_behaves() -> None:
    assert minimal_detectable_difference(400, 0.25, design_effect=2.0) == minimal_detectable_difference(200, 0.25)
    assert minimal_detectable_difference(1, 0.25) == 0.5  # no larger than √ψ allows


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        (bootstrap, ([], [], []), "items"),
        (bootstrap, ([True], ["v"], ["A", "B"]), "items"),
        (mcnemar, ([True], [True, False]), "items"),
        (wilson, (5, 4), "5 right of 4"),
        (holm, ([1.2],), "p-values"),
    ],
)
def test_refusals(function, given, said) -> None:
    with pytest.raises(DataError, match=said):
        function(*given)


@pytest.mark.parametrize("given", [(0, 0.2), (5, 0.0), (5, 1.1)])
def test_impossible_designs(given) -> None:
    with pytest.raises(ParameterError, match="minimal detectable"):
        minimal_detectable_difference(*given)
