"""Intervals and tests against scipy, closed forms and all patterns, and against simulations of items in videos."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from bench.intervals import Plan, simulate
from components.core.errors import DataError, ParameterError
from components.quality.statistics import (
    accuracy,
    difference,
    holm,
    letter_balance,
    mean_interval,
    minimal_detectable_difference,
    sign_flips,
    student,
)


def names(videos: np.ndarray) -> list[str]:
    return [f"v{video}" for video in videos]


def of_one_type(right: list[bool], videos: list[str]):
    return accuracy(right, videos, [""] * len(right)).overall


@pytest.mark.parametrize(("correct", "n"), [(34, 64), (126, 400), (2500, 4018)])
def test_one_item_per_video_gives_wilsons_interval(correct: int, n: int) -> None:
    """Scipy's, but for Student's quantile in place of the normal one."""
    found = of_one_type([True] * correct + [False] * (n - correct), [str(i) for i in range(n)])
    share, spread = correct / n, stats.t(n - 1).ppf(0.975) ** 2 / n
    roots = np.roots([1 + spread, -(2 * share + spread), share**2])  # (share − θ)² = spread · θ (1 − θ)
    assert (found.low, found.high) == pytest.approx(sorted(roots), rel=1e-5)
    scipys = stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high), abs=0.004)


def test_items_that_agree_wholly_count_once() -> None:
    """Each video's four items are all right or all wrong: as an item of each."""
    right = np.random.default_rng(0).random(300) < 0.6
    once = of_one_type(right.tolist(), [str(i) for i in range(300)])
    fourfold = of_one_type(np.repeat(right, 4).tolist(), [str(i) for i in np.repeat(range(300), 4)])
    assert (fourfold.low, fourfold.value, fourfold.high) == pytest.approx((once.low, once.value, once.high), abs=1e-12)
    assert (fourfold.n, fourfold.clusters) == (1200, 300)


def test_videos_that_are_alike_by_chance_are_no_certainty() -> None:
    """Two videos, each half right: scipy's interval of four independent items."""
    found = of_one_type([True, False] * 2, ["a", "a", "b", "b"])
    scipys = stats.binomtest(2, 4).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high))


def test_standard_errors_by_hand() -> None:
    """Videos of 3, 2 and 1 items are worth 36 / 14 equal ones; their deviations are those of sums from shares."""
    right, videos = [True, True, False, False, False, True], ["a", "a", "a", "b", "b", "c"]
    deviations = np.array([2 - 1.5, 0 - 1, 1 - 0.5]) / 6
    worth = 36 / 14
    expected = np.sqrt((deviations**2).sum() * worth / (worth - 1))
    assert of_one_type(right, videos).error == pytest.approx(expected)
    change = difference([False] * 6, right, videos, ["A"] * 6).overall
    more = np.sqrt((2**2 + 1**2) / 2) / 6  # as heavy as the two videos that changed
    assert change.error == pytest.approx(np.sqrt(expected**2 + 2 * more**2) / (1 + 2 * more))


@pytest.mark.parametrize("videos", [2, 14, 1776])
def test_nothing_or_everything_right_has_an_interval(videos: int) -> None:
    """All items equal: each video counts once, so the bound is Wilson's of 0 of V."""
    none, everything = (of_one_type([right] * 3 * videos, names(np.arange(3 * videos) // 3)) for right in (False, True))
    spread = student(videos - 1) ** 2
    assert (none.low, none.high) == pytest.approx((0, spread / (videos + spread)))
    assert (everything.low, everything.high) == pytest.approx((1 - none.high, 1))
    assert none.high > 3 / (videos + 3)  # the rule of three


def test_few_hits_are_not_surer_than_none() -> None:
    """The bound grows with the hits of one video after another, and never beyond what V videos would give."""
    hits = [[k < many and j == 0 for k in range(40) for j in range(5)] for many in range(8)]
    highs = [of_one_type(right, names(np.arange(200) // 5)).high for right in hits]
    assert highs[1] > highs[0]
    spread = student(39) ** 2
    assert all(high < (many / 200 + spread / 40) / (1 + spread / 40) + 0.02 for many, high in enumerate(highs))


def test_one_video_has_no_interval() -> None:
    for right in ([True, False], [True, True]):
        one = accuracy(right, ["v", "v"], ["A", "B"])
        assert one.overall.low is one.average.low is one.by_type["A"].low is None
    change = difference([True, False], [True, True], ["v", "v"], ["A", "B"])
    assert change.overall.low is change.average.high is change.by_type["B"].low is None


def test_students_quantile() -> None:
    for df, tolerance in ((1, 0.12), (2, 0.01), (3, 2e-3), (5, 2e-4), (12.5, 1e-5), (1775, 1e-9)):
        assert student(df) == pytest.approx(stats.t(df).ppf(0.975), rel=tolerance)


def test_values_are_micro_and_macro() -> None:
    one = simulate(Plan("FAVOR-Bench", videos=150), seed=3)
    found = accuracy(one.before, one.videos, one.types)
    right, types = np.array(one.before, float), np.array(one.types)
    by_type = {str(kind): right[types == kind].mean() for kind in np.unique(types)}
    assert found.overall.value == pytest.approx(right.mean())
    assert found.average.value == pytest.approx(np.mean(list(by_type.values())))
    assert abs(found.overall.value - found.average.value) > 0.005  # else the test could not tell them apart
    assert {name: one.value for name, one in found.by_type.items()} == pytest.approx(by_type)
    change = difference(one.before, one.after, one.videos, one.types)
    after = accuracy(one.after, one.videos, one.types)
    assert change.average.value == pytest.approx(after.average.value - found.average.value)
    assert change.by_type["2"].value == pytest.approx(after.by_type["2"].value - found.by_type["2"].value)
    assert change.average.n == change.overall.n == len(one.before)


def test_one_type_is_its_own_average() -> None:
    one = simulate(Plan("Video-MME", videos=30, shares=(1.0,)), seed=1)
    found = accuracy(one.before, one.videos, one.types)
    assert found.overall == found.average == found.by_type["0"]
    change = difference(one.before, one.after, one.videos, one.types)
    assert change.overall == change.average == change.by_type["0"]


def test_the_order_of_items_changes_nothing() -> None:
    one = simulate(Plan("FAVOR-Bench", videos=60), seed=2)
    forth = difference(one.before, one.after, one.videos, one.types, seed=5)
    back = difference(*(part[::-1] for part in (one.before, one.after, one.videos, one.types)), seed=5)
    assert back.overall == forth.overall
    assert back.average.p == pytest.approx(forth.average.p, abs=0.02)
    swapped = difference(one.after, one.before, one.videos, one.types, seed=5).overall
    assert (swapped.low, swapped.high, swapped.p) == pytest.approx(
        (-forth.overall.high, -forth.overall.low, forth.overall.p)
    )


@pytest.mark.parametrize("repeats", [(1, 1), (2, 2), (2, 3), (1, 4)])
def test_repeats_of_a_video_stay_together(repeats: tuple[int, int]) -> None:
    """Outcomes are means over repeats, and p counts all patterns of the videos' sums of them."""
    rng = np.random.default_rng(sum(repeats))
    videos, types = np.repeat(range(9), 2), np.tile(["A", "B"], 9)
    before, after = (rng.integers(0, count + 1, 18) for count in repeats)
    change = after / repeats[1] - before / repeats[0]
    found = difference(before.tolist(), after.tolist(), names(videos), types.tolist(), repeats=repeats)
    assert found.overall.value == pytest.approx(change.mean())
    assert found.by_type["B"].value == pytest.approx(change[types == "B"].mean())
    signs = np.array(list(itertools.product((1, -1), repeat=9)))
    for estimate, own in ((found.overall, change >= -2), (found.by_type["A"], types == "A")):
        sums = np.bincount(videos[own], change[own])
        assert estimate.p == pytest.approx(np.mean(abs(signs @ sums) >= abs(sums.sum()) - 1e-9))


def test_equal_repeats_are_one() -> None:
    one = simulate(Plan("FAVOR-Bench", videos=60), seed=4)
    thrice = ([3 * right for right in side] for side in (one.before, one.after))
    once = difference(one.before, one.after, one.videos, one.types)
    assert difference(*thrice, one.videos, one.types, repeats=(3, 3)).overall == once.overall


@pytest.mark.parametrize("counts", [(0, 0), (5, 5), (3, 12), (12, 3), (1, 0), (40, 95), (700, 900), (1000, 0)])
def test_single_items_give_mcnemars_exact_test(counts: tuple[int, int]) -> None:
    won, lost = counts
    before = [False] * won + [True] * lost + [True] * 7 + [False] * 9
    after = [True] * won + [False] * lost + [True] * 7 + [False] * 9
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    found = difference(before, after, [str(i) for i in range(len(before))], ["A"] * len(before)).overall
    assert found.p == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scale", [1, 0.37])
def test_sign_flips_equal_all_patterns(scale: float) -> None:
    """Whole numbers by their law, others by all their signs."""
    given = scale * np.array([3, -1, 2, 2, 1, -2, 4, 1, 0, 1])
    sums = [abs(np.dot(signs, given)) for signs in itertools.product((1, -1), repeat=len(given))]
    assert sign_flips(given) == pytest.approx(np.mean(np.array(sums) >= abs(given.sum()) - 1e-9), rel=1e-9)


def test_drawn_signs_come_near_the_law() -> None:
    given = np.random.default_rng(4).integers(-5, 6, 60).astype(float)
    exact, drawn = sign_flips(given), sign_flips(0.31 * given, draws=20_000)
    assert 0.05 < exact < 0.9
    assert drawn == pytest.approx(exact, abs=0.015)
    assert sign_flips(0.31 * given, seed=1, draws=500) != sign_flips(0.31 * given, seed=2, draws=500)
    assert sign_flips(np.full(60, 0.31), draws=500) == pytest.approx(1 / 501)  # the data counts as a draw: never 0


def test_the_interval_holds_nothing_where_the_test_finds_nothing() -> None:
    """With few videos the exact test says less than the interval alone would."""
    found = [(simulate(Plan("Video-MME", videos=9, gain=0.25), seed), seed) for seed in range(40)]
    changes = [difference(one.before, one.after, one.videos, one.types, seed=seed).overall for one, seed in found]
    assert sum(e.p > 0.05 and (e.low == 0 or e.high == 0) for e in changes) >= 1
    assert all(e.low <= 0 <= e.high for e in changes if e.p > 0.05)
    assert any(e.low > 0 for e in changes)


def test_nothing_changed_is_no_certainty() -> None:
    """0 of V videos changed: the interval holds what the rule of three allows, and p is 1."""
    right, videos = [True, False] * 100, names(np.arange(200) // 4)
    found = difference(right, right, videos, ["A"] * 200).overall
    assert (found.p, found.value) == (1, 0)
    assert found.high == -found.low > 3.7 / 50


def test_difference_of_single_items_is_bonett_and_prices() -> None:
    """Their formula: one more pair won and one lost; here with Student's quantile."""
    won, lost, n = 70, 40, 400
    before = [False] * won + [True] * lost + [True] * (n - won - lost)
    after = [True] * won + [False] * lost + [True] * (n - won - lost)
    found = difference(before, after, [str(i) for i in range(n)], ["A"] * n).overall
    p12, p21 = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    half = stats.t(113).ppf(0.975) * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    assert (found.low, found.high) == pytest.approx((p12 - p21 - half, p12 - p21 + half), abs=1e-4)


def test_letters_named_as_often_as_right() -> None:
    """Single items: Stuart & Maxwell's χ² by hand; a model that says A too often is found, by all patterns."""
    named, right = list("AAAAABBCCAAB"), list("ABCABBACCBCB")
    letters, videos = "AB", [str(i) for i in range(12)]
    excess = np.array([[(n == x) - (r == x) for x in letters] for n, r in zip(named, right, strict=True)], float)
    total, inverse = excess.sum(0), np.linalg.inv(excess.T @ excess)
    chi, p = letter_balance(named, right, videos)
    assert chi == pytest.approx(total @ inverse @ total)
    changed = excess[excess.any(1)]
    drawn = [np.array(signs) @ changed for signs in itertools.product((1, -1), repeat=len(changed))]
    assert p == pytest.approx(np.mean([one @ inverse @ one >= chi - 1e-9 for one in drawn]))
    assert letter_balance(right, right, videos) == (0, 1)
    _, always_a = letter_balance(["A"] * 60, list("ABCD") * 15, [str(i // 2) for i in range(60)], draws=500)
    assert always_a < 0.01


@pytest.mark.parametrize(
    ("sizes", "within", "within_after"),
    [
        ("FAVOR-Bench", 0.0, 0.0),
        ("FAVOR-Bench", 0.3, 0.3),
        ("FAVOR-Bench", 0.9, 0.0),
        ("Video-MME", 0.9, 0.9),
        ("MotionBench", 0.9, 0.9),
    ],
)
def test_intervals_cover_and_the_test_holds_its_level(sizes: str, within: float, within_after: float) -> None:
    """200 videos, no difference; `bench/intervals.py` has more sizes, chances and numbers of videos."""
    plan = Plan(sizes, videos=200, shares=(1.0,), within=within, within_after=within_after)
    seeds = range(150)
    covered, kept, rejected = [], [], []
    for one in (simulate(plan, seed) for seed in seeds):
        share = of_one_type(one.before, one.videos)
        change = difference(one.before, one.after, one.videos, one.types).overall
        covered.append(share.low <= 0.5 <= share.high)
        kept.append(change.low <= 0 <= change.high)
        rejected.append(change.p <= 0.05)
    noise = 3 * np.sqrt(0.05 * 0.95 / len(seeds))
    assert np.mean(covered) == pytest.approx(0.95, abs=noise)
    assert np.mean(kept) == pytest.approx(0.95, abs=noise)
    assert np.mean(rejected) < 0.05 + noise


@pytest.mark.parametrize(("chance", "videos"), [(0.98, 60), (0.5, 8)])
def test_intervals_cover_near_the_ends_and_with_few_videos(chance: float, videos: int) -> None:
    """There they may be wider than they need be, never shorter."""
    seeds, missed = range(60), np.zeros(3)
    for within, seed in itertools.product((0.0, 0.9), seeds):
        one = simulate(Plan("FAVOR-Bench", videos=videos, chance=chance, within=within, within_after=within), seed)
        share, change = (
            accuracy(one.before, one.videos, one.types),
            difference(one.before, one.after, one.videos, one.types, draws=50),
        )
        truth = float(np.mean([one.chances[int(kind)] for kind in share.by_type]))
        missed += [
            not share.overall.low <= one.overall <= share.overall.high,
            not share.average.low <= truth <= share.average.high,
            not change.overall.low <= 0 <= change.overall.high,
        ]
    assert (missed / 120 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)).all()


def test_itemwise_mcnemar_would_not_hold_its_level() -> None:
    """What the permutation by video replaces: with items that agree it rejects far too often."""
    plan = Plan("FAVOR-Bench", videos=100, shares=(1.0,), within=0.9, within_after=0.9, same=0.0)
    rejected = []
    for one in (simulate(plan, seed) for seed in range(60)):
        itemwise = [str(i) for i in range(len(one.before))]
        rejected.append(difference(one.before, one.after, itemwise, one.types).overall.p <= 0.05)
    assert np.mean(rejected) > 0.2


def test_holm_equals_its_definition() -> None:
    """p̃ of the i-th smallest is max over j ≤ i of min(1, (m − j + 1) p_(j)); checked in every order."""
    p = [0.01, 0.04, 0.03, 0.005]
    expected = {0.005: 0.02, 0.01: 0.03, 0.03: 0.06, 0.04: 0.06}
    for order in itertools.permutations(p):
        assert holm(order) == pytest.approx([expected[value] for value in order])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


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


def test_equal_values_have_no_interval():
    same = mean_interval([1.0] * 6, ["a", "a", "b", "b", "c", "c"])
    assert (same.value, same.low, same.high, same.clusters) == (1, None, None, 3)
    inside = mean_interval([0.25] * 12, [f"v{k}" for k in range(12)], span=(0, 1))
    none = of_one_type([False] * 12, [f"v{k}" for k in range(12)]).high
    assert (inside.low, inside.high) == pytest.approx((0.25 * (1 - none), 0.25 + 0.75 * none))


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
        (accuracy, ([], [], []), "items"),
        (accuracy, ([True], ["v"], ["A", "B"]), "items"),
        (difference, ([True], [True, False], ["v"], ["A"]), "items"),
        (mean_interval, ([1.0], ["v", "w"]), "items"),
        (letter_balance, (["A"], ["A", "B"], ["v"]), "items"),
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
