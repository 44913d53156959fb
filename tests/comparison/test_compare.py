"""Comparisons over seeds against counting by hand, all patterns of signs, simulations, and the paper's own numbers."""

import itertools
import statistics

import numpy as np
import pytest

from components.comparison.compare import Trial, compare
from components.core.errors import DataError, ParameterError
from components.quality.statistics import accuracy, difference, holm
from tests.comparison.made import answered, item, result

# six items of five videos; two types
ITEMS = [(0, 0, "Camera Motion"), (1, 0, "Camera Motion"), *((i, i - 1, "Action Order") for i in range(2, 6))]
RIGHT = {
    Trial("plain", 1): (1, 0, 0, 0, 0, 1),
    Trial("plain", 2): (1, 1, 0, 0, 0, 1),
    Trial("10 steps", 1): (1, 1, 1, 1, 1, 0),
    Trial("10 steps", 2): (1, 1, 1, 0, 1, 1),
    Trial("10 steps", 3): (1, 1, 1, 0, 1, 0),
}
START = (0, 0, 1, 0, 0, 1)


def compared(right=RIGHT, start=START, baseline="plain", items=ITEMS):
    tuned = {trial: {"motionbench": answered(items, own)} for trial, own in right.items()}
    untouched = {trial.variant: {"motionbench": answered(items, start)} for trial in tuned}
    return compare(tuned, untouched, baseline)


def test_means_over_seeds_by_hand():
    found = compared()
    (table,) = found.tables
    assert [model.name for model in found.models] == ["untouched", "plain", "10 steps"]
    assert [model.seeds for model in found.models] == [(), (1, 2), (1, 2, 3)]
    assert [model.against for model in found.models] == ["plain", None, "plain"]
    assert [row.name for row in table.rows] == ["Overall", "Average", "Action Order", "Camera Motion"]
    assert (table.items, table.videos, found.family) == (6, 5, 2)
    overall = table.primary["10 steps"]
    assert overall.mean.value == pytest.approx(100 * (5 + 5 + 4) / 18)
    assert overall.seeds == pytest.approx([100 * 5 / 6, 100 * 5 / 6, 100 * 4 / 6])
    assert overall.spread == pytest.approx(statistics.stdev(overall.seeds))
    assert overall.change.value == pytest.approx(100 * (14 / 18 - 5 / 12))
    average, order, camera = (row.values["10 steps"] for row in table.rows[1:])
    assert average.mean.value == pytest.approx((order.mean.value + camera.mean.value) / 2)
    assert (order.mean.value, camera.mean.value) == pytest.approx((100 * 8 / 12, 100))
    assert table.primary["plain"].change is table.primary["plain"].p is table.primary["untouched"].spread is None
    assert table.primary["untouched"].mean.value == pytest.approx(100 * 2 / 6)


def test_p_counts_all_patterns_of_whole_videos():
    """A video's seeds keep or change their signs together; Holm over both models, by hand."""
    nothing = (0,) * 6
    table, p = compared(start=nothing).tables[0], {}
    base = np.mean([RIGHT[Trial("plain", seed)] for seed in (1, 2)], axis=0)
    tuned = np.mean([RIGHT[Trial("10 steps", seed)] for seed in (1, 2, 3)], axis=0)
    for name, outcome in (("untouched", np.array(nothing)), ("10 steps", tuned)):
        sums = np.bincount([video for _, video, _ in ITEMS], outcome - base)
        signs = np.array(list(itertools.product((1, -1), repeat=len(sums))))
        p[name] = float(np.mean(abs(signs @ sums) >= abs(sums.sum()) - 1e-9))
    smaller, larger = sorted(p, key=p.get)
    assert p[smaller] < p[larger] < 1
    adjusted = {smaller: min(1.0, 2 * p[smaller])}
    adjusted[larger] = max(adjusted[smaller], p[larger])
    assert {name: table.primary[name].p for name in p} == pytest.approx(adjusted)
    rest = [row.values[name].change.p for row in table.rows[1:] for name in ("untouched", "10 steps")]
    found = [row.values[name].p for row in table.rows[1:] for name in ("untouched", "10 steps")]
    assert found == pytest.approx(holm(rest))


def test_first_metrics_of_all_benchmarks_are_one_family():
    """Holm over two models and two benchmarks; the other metrics of each benchmark by themselves."""
    kinds = {"motionbench": ("CM", "AO"), "favor": ("AS", "NSM")}
    items = {name: [(k, k, pair[k % 2]) for k in range(12)] for name, pair in kinds.items()}

    def results(right):
        return {name: answered(items[name], [k < right for k in range(12)], name) for name in kinds}

    tuned = {Trial(name, 1): results(right) for name, right in (("a", 2), ("b", 9), ("c", 11))}
    found = compare(tuned, {name: results(2) for name in "abc"}, "a")
    values = [table.primary[name] for table in found.tables for name in ("untouched", "b", "c")]
    assert [value.p for value in values] == pytest.approx(holm([value.change.p for value in values]))
    assert values[2].p == pytest.approx(6 * 2 / 2**9)  # the smallest of six: nine videos won, none lost
    for table in found.tables:
        rest = [row.values[name] for row in table.rows[1:] for name in ("untouched", "b", "c")]
        assert [value.p for value in rest] == pytest.approx(holm([value.change.p for value in rest]))


def test_seeds_that_agree_are_one_seed():
    """Three equal seeds give what one gives, value, interval and p; the interval is that of the videos alone."""
    once = {trial: RIGHT[trial] for trial in (Trial("plain", 1), Trial("10 steps", 1))}
    thrice = {Trial(variant, seed): right for (variant, _), right in once.items() for seed in (1, 2, 3)}
    one, three = compared(once).tables[0], compared(thrice).tables[0]
    for row, same in zip(one.rows, three.rows, strict=True):
        for name in ("plain", "10 steps"):
            assert same.values[name].mean == row.values[name].mean
            assert same.values[name].seeds == (*row.values[name].seeds,) * 3
        change, again = row.values["10 steps"].change, same.values["10 steps"].change
        assert (again.value, again.low, again.high) == pytest.approx((change.value, change.low, change.high))
        assert again.p == change.p


def test_one_seed_is_the_paired_difference():
    """Of one seed each the numbers are `accuracy` and `difference` of the items as they are."""
    once = {trial: RIGHT[trial] for trial in (Trial("plain", 1), Trial("10 steps", 1))}
    row = compared(once).tables[0].rows[0]
    videos, types = [f"{video:064x}" for _, video, _ in ITEMS], ["CM", "CM", *["AO"] * 4]
    before, after = (once[Trial(name, 1)] for name in ("plain", "10 steps"))
    assert row.values["10 steps"].change == difference(before, after, videos, types).overall.percent
    assert row.values["plain"].mean == accuracy(before, videos, types).overall.percent


def test_intervals_cover_the_difference_and_the_test_holds_its_level():
    """Simulated items in videos that are alike, answered by three seeds; the truth is the mean of their chances."""
    rng, hits, rejected, runs = np.random.default_rng(4), 0, 0, 300
    videos, types = [str(i // 4) for i in range(160)], ["A"] * 160
    for _ in range(runs):
        ease = np.repeat(rng.normal(0, 1.2, 40), 4)

        def seeds(shift, ease=ease):
            chance = 1 / (1 + np.exp(-(ease + shift)))
            return (rng.random((3, 160)) < chance).sum(0).tolist()

        before, after, same = seeds(0), seeds(0.8), seeds(0)
        found = difference(before, after, videos, types, repeats=(3, 3)).overall
        hits += found.low <= TRUTH <= found.high
        rejected += difference(before, same, videos, types, repeats=(3, 3)).overall.p <= 0.05
    assert 0.925 <= hits / runs <= 0.985  # 95 % within 2 standard errors of 300 runs
    assert rejected / runs <= 0.08


def _truth():
    ease = np.random.default_rng(0).normal(0, 1.2, 400_000)
    return float(np.mean(1 / (1 + np.exp(-(ease + 0.8))) - 1 / (1 + np.exp(-ease))))


TRUTH = _truth()


def test_unreadable_replies_are_a_share_of_all():
    tuned = {
        Trial("a", 1): {"motionbench": result([item(0, 0, "CM", False, ""), item(1, 1, "CM", True)])},
        Trial("a", 2): {"motionbench": result([item(0, 0, "CM", True), item(1, 1, "CM", True)])},
    }
    found = compare(tuned, {"a": tuned[Trial("a", 1)]}, "untouched")
    assert found.tables[0].unparsed == {"untouched": 1 / 2, "a": 1 / 4}


def test_every_variant_against_the_model_it_begins_with():
    """Two variants of one model and one of another: each is compared with its own."""
    tuned = {Trial(name, 1): {"motionbench": answered(ITEMS, RIGHT[Trial("10 steps", 1)])} for name in "abc"}
    starts = {"a": START, "b": RIGHT[Trial("plain", 1)], "c": START}
    untouched = {name: {"motionbench": answered(ITEMS, right)} for name, right in starts.items()}
    found = compare(tuned, untouched, "untouched")
    lines = {model.name: model.against for model in found.models}
    assert lines == {
        "untouched": None,
        "untouched of b": None,
        "a": "untouched",
        "b": "untouched of b",
        "c": "untouched",
    }
    assert found.tables[0].primary["a"].change.value == pytest.approx(100 * (5 - 2) / 6)
    assert found.tables[0].primary["b"].change.value == pytest.approx(100 * (5 - 2) / 6)
    assert found.family == 3
    against = compare(tuned, untouched, "a")
    assert {model.name: model.against for model in against.models} == {**dict.fromkeys(lines, "a"), "a": None}


def test_no_variant_is_called_as_an_untouched_model():
    tuned = {Trial(name, 1): {"motionbench": answered(ITEMS, START)} for name in ("a", "b", "untouched of b")}
    untouched = {
        name: {"motionbench": answered(ITEMS, right)} for name, right in zip("ab", RIGHT.values(), strict=False)
    }
    untouched["untouched of b"] = untouched["a"]
    with pytest.raises(ParameterError, match="'untouched of b' is what an untouched model is called here"):
        compare(tuned, untouched, "a")


def test_other_items_or_benchmarks_are_an_error():
    same, fewer = answered(ITEMS, START), answered(ITEMS[:4], START[:4])
    other = answered([(9, 0, "CM"), *ITEMS[1:]], START)

    def problem(result, protocol="motionbench", kind=DataError, **names):
        tuned = {Trial("a", 1): {"motionbench": same}, Trial("b", 2): {protocol: result}}
        with pytest.raises(kind) as caught:
            compare(tuned, {"a": {"motionbench": same}, "b": {"motionbench": same}}, "a")
        return str(caught.value)

    found = problem(fewer)
    assert "variant 'b', seed 2" in found
    assert f"2 missing ({4:016x}, {5:016x}), 0 more" in found
    assert f"1 missing ({0:016x}), 1 more ({9:016x})" in problem(other)
    assert "results of favor, but of motionbench for variant 'a', untouched" in problem(same, "favor")
    assert "no item of MotionBench was answered" in problem(result([]))


def test_what_can_be_no_baseline():
    with pytest.raises(ParameterError, match="no variant 'typo'"):
        compared(baseline="typo")
    assert compared(baseline="first").baseline == "plain"
    one = {"motionbench": answered(ITEMS, START)}
    with pytest.raises(DataError, match="no untouched results of a"):
        compare({Trial("a", 1): one}, {"b": one}, "a")
