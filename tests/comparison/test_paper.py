"""The paper's printed numbers, fed through the comparison as answers to its benchmarks' items, give its differences."""

import itertools
from functools import cache

import pytest

from components.benchmarks.interface import get_benchmark
from components.comparison.compare import Trial, compare
from components.comparison.paper import TABLES, ablation_table
from components.runtime.variants import UNTOUCHED
from tests.comparison.made import answering, item, result

TABLE_3, TABLE_5, TABLE_6 = TABLES
# what the supplement's Tables 3 and 4 print behind the arrows: Overall, Average
GAINS = {
    "motionbench": {
        "Qwen2.5-VL-3B": (3.04, 3.06),
        "InternVL3-2B": (1.54, 1.66),
        "Qwen2.5-VL-7B": (4.23, 4.63),
        "InternVL3-8B": (2.81, 2.41),
    },
    "favor": {
        "Qwen2.5-VL-3B": (7.10, 5.87),
        "InternVL3-2B": (4.44, 6.24),
        "Qwen2.5-VL-7B": (4.27, 4.43),
        "InternVL3-8B": (3.12, 2.90),
    },
}
# the tables as they are printed: MotionBench's Overall and Average, FAVOR-Bench's; the main text prints marks as labels
PRINTED = {
    TABLE_3.title: """
        neither | 54.83 | 51.51 | 44.83 | 44.54
        MHS | 56.60 | 52.51 | 46.65 | 46.55
        MTTI | 55.80 | 51.31 | 45.47 | 45.99
        MHS and MTTI | 57.04 | 52.92 | 46.88 | 47.01""",
    TABLE_5.title: """
        Qwen2.5VL-7B | 54.83 | 51.51 | 44.83 | 44.54
        2 steps for DDIM | 52.76 | 48.68 | 24.01 | 25.16
        5 steps for DDIM | 57.04 | 52.92 | 46.88 | 47.01
        10 steps for DDIM | 57.51 | 53.35 | 49.02 | 47.99
        25% head/token select | 55.33 | 51.00 | 47.12 | 47.28
        50% head/token select | 57.04 | 52.92 | 46.88 | 47.01
        75% head/token select | 54.88 | 50.69 | 45.69 | 44.10""",
    TABLE_6.title: """
        Qwen2.5VL-7B | 52.81 | 48.29 | 42.61 | 42.58
        + MotionVid-QA (133k) | 55.70 | 51.25 | 47.12 | 47.28
        + MotionEnhancer (25k) | 57.04 | 52.92 | 46.88 | 47.01""",
}
VIDEOS = 60  # that the items are spread over
ROUNDED = 0.0101  # both numbers of a difference are rounded to two decimals


@pytest.fixture(scope="module")
def lines():
    """Every item of both benchmarks, by protocol; type by type."""
    found = {}
    for protocol in GAINS:
        kinds = [kind for kind, count in get_benchmark(protocol).counts.by_type.items() for _ in range(count)]
        found[protocol] = [item(k, k % VIDEOS, kind, False) for k, kind in enumerate(kinds)]
    return found


def answers(lines, protocol, right):
    """A result of so many right items of each type."""
    counts = get_benchmark(protocol).counts.by_type
    correct = [k < right[kind] for kind, count in counts.items() for k in range(count)]
    return result(answering(None, correct, lines[protocol]), protocol)


def whole(protocol, numbers):
    """The numbers of right items by type that have these printed percentages."""
    counts = get_benchmark(protocol).counts.by_type
    return {kind: round(numbers[kind] * count / 100) for kind, count in counts.items()}


def with_totals(protocol, overall, wanted):
    """Some numbers of right items by type that have this printed Overall and Average.

    All types have about the printed share; then items move from the largest type to two others until both agree.
    """
    counts = get_benchmark(protocol).counts.by_type
    total, (largest, *others) = sum(counts.values()), sorted(counts, key=counts.get, reverse=True)
    start = {kind: round(wanted * count / 100) for kind, count in counts.items()}
    start[largest] += round(overall * total / 100) - sum(start.values())
    for kinds in itertools.combinations(others, 2):
        for moved in itertools.product(range(-60, 61), repeat=2):
            found = {**start, largest: start[largest] - sum(moved)}
            found |= {kind: start[kind] + more for kind, more in zip(kinds, moved, strict=True)}
            fits = all(0 <= found[kind] <= count for kind, count in counts.items())
            average = sum(100 * found[kind] / count for kind, count in counts.items()) / len(counts)
            if fits and abs(average - wanted) < 0.004:
                return found
    raise AssertionError(f"no counts for {overall} and {wanted}")


@pytest.fixture(scope="module")
def printed(lines):
    """Returns a result with a benchmark's printed Overall and Average, each made once."""
    return cache(lambda protocol, *totals: answers(lines, protocol, with_totals(protocol, *totals)))


@pytest.mark.parametrize("protocol", GAINS)
def test_the_gains_of_the_supplements_tables(lines, protocol):
    """From the printed percentages of the task types alone; every model is the baseline of its tuned one."""
    printed = {row.label: row for row in get_benchmark(protocol).paper if row.tuned}
    assert {*printed} == {*GAINS[protocol]}
    for label, gains in GAINS[protocol].items():
        before, after = (
            answers(lines, protocol, whole(protocol, side)) for side in (printed[label].untouched, printed[label].tuned)
        )
        found = compare({Trial("tuned", 1): {protocol: after}}, {"tuned": {protocol: before}}, UNTOUCHED)
        overall, average, *types = found.tables[0].rows
        assert [overall.name, average.name] == ["Overall", "Average"]
        changes = [row.values["tuned"].change.value for row in (overall, average)]
        assert changes == pytest.approx(gains, abs=ROUNDED), label
        for row in (overall, average, *types):
            assert row.values["tuned"].mean.value == pytest.approx(printed[label].tuned[row.key], abs=ROUNDED)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_the_differences_of_the_ablations(printed, table):
    """Of a table's first row to each other one, with items that have the printed Overall and Average."""
    baseline, *others = table.rows
    made = {
        name: {protocol: printed(protocol, *row.numbers[protocol].values()) for protocol in GAINS}
        for name, row in table.rows.items()
    }
    start = made.pop(UNTOUCHED, None)
    untouched = dict.fromkeys(made, start or next(iter(made.values())))
    found = compare({Trial(name, 1): own for name, own in made.items()}, untouched, baseline)
    wanted = table.differences(baseline)
    assert {model.name for model in found.compared} >= {*others}
    for shown in found.tables:
        for row in shown.rows[:2]:
            for name in others:
                difference = wanted[name][shown.benchmark.name][row.key]
                assert row.values[name].change.value == pytest.approx(difference, abs=ROUNDED), (name, row.key)


def test_what_the_paper_states_about_its_ablations():
    """Supplement, 5.4 and 5.5, and what differs from it there."""
    steps, data = TABLE_5.differences("5 steps"), TABLE_6.differences("all of MotionVid-QA, plain")
    assert all(value < 0 for numbers in steps["2 steps"].values() for value in numbers.values())
    worst = min(value for numbers in steps["2 steps"].values() for value in numbers.values())
    assert worst == steps["2 steps"]["favor"]["Overall"] == -22.87  # "especially on FAVOR-Bench"
    assert all(value > 0 for numbers in steps["10 steps"].values() for value in numbers.values())
    assert steps["50 % of heads and tokens"] == {"motionbench": ZERO, "favor": ZERO}
    assert steps["25 % of heads and tokens"]["favor"] == {"Overall": 0.24, "Average": 0.27}  # not "the best" there
    assert data["25k aligned"]["motionbench"] == {"Overall": 1.34, "Average": 1.67}  # "superior on MotionBench"
    assert data["25k aligned"]["favor"] == {"Overall": -0.24, "Average": -0.27}  # "comparable on FAVOR-Bench"
    selection = TABLE_3.differences("no MHS, no MTTI")["MHS and MTTI"]
    assert selection == {"motionbench": {"Overall": 2.21, "Average": 1.41}, "favor": {"Overall": 2.05, "Average": 2.47}}


ZERO = {"Overall": 0.0, "Average": 0.0}


def test_rows_are_those_of_the_tables():
    for table in TABLES:
        printed = [[cell.strip() for cell in line.split("|")] for line in PRINTED[table.title].strip().splitlines()]
        numbers = [
            [f"{value:.2f}" for own in row.numbers.values() for value in own.values()] for row in table.rows.values()
        ]
        assert [[row.label, *own] for row, own in zip(table.rows.values(), numbers, strict=True)] == printed
        assert all([*row.numbers] == ["motionbench", "favor"] for row in table.rows.values())
    whole_method = [table.rows[name].numbers for table, name in WHOLE]
    assert all(numbers == whole_method[0] for numbers in whole_method)
    printed = next(row for row in get_benchmark("favor").paper if row.label == "Qwen2.5-VL-7B")
    assert whole_method[0]["favor"]["Overall"] == printed.tuned["Overall"]
    assert TABLE_6.rows[UNTOUCHED].numbers["favor"]["Average"] == printed.untouched["Average"]


WHOLE = [
    (TABLE_3, "MHS and MTTI"),
    (TABLE_5, "5 steps"),
    (TABLE_5, "50 % of heads and tokens"),
    (TABLE_6, "25k aligned"),
]


def test_equal_pairs_of_other_experiments_are_flagged():
    """Every pair of a benchmark that is printed for two settings that do not belong together carries a doubt."""
    seen = {}
    for table in TABLES:
        for row in table.rows.values():
            for protocol, numbers in row.numbers.items():
                seen.setdefault((protocol, *numbers.values()), []).append((table, row))
    for protocol in GAINS:
        for row in get_benchmark(protocol).paper:
            for side in filter(None, (row.untouched, row.tuned)):
                if side.get("Average") and row.label != "Qwen2.5-VL-7B":
                    assert all(
                        protocol in one.flags for _, one in seen.get((protocol, side["Overall"], side["Average"]), [])
                    )
    for (protocol, *_), rows in seen.items():
        if len({one.variant for _, one in rows} - {name for _, name in WHOLE}) > 1:
            assert all(protocol in one.flags for _, one in rows), rows


def test_the_table_that_variants_repeat():
    assert ablation_table(["no MHS, no MTTI", "2 steps", "other"]) is TABLE_5
    assert ablation_table(["MHS alone", "no MHS, no MTTI"]) is TABLE_3
    assert ablation_table([UNTOUCHED, "25k aligned"]) is TABLE_6
    assert ablation_table([UNTOUCHED, "2 steps", "no"]) is None
