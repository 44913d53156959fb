"""Paired comparisons against counting by hand, the paper's numbers beside them, and what so many questions can show."""

import itertools
import re

import numpy as np
import pytest

from components.benchmarks.interface import get_benchmark
from components.core.artifacts import EvalResult, ItemResult
from components.core.records import Ref, Sample, Video
from components.quality.statistics import minimal_detectable_difference
from components.report.benchmarks import _dot, _paper_cell, _table, compare, detectable


def item(name, video, kind, correct, parsed="A"):
    ref = Ref(path="v", sha256=f"{video:064x}", bytes=1, task="t")
    asked = {"id": f"{name:016x}", "uid": str(name), "question": "?", "response": "", "answer": "A"}
    sample = Sample(**asked, is_instruction=False, question_type=kind)
    found = Video(file=ref, width=2, height=2, rotation=0, duration=1, times=[0.0])
    judged = {"parsed": parsed, "rule": "letter", "correct": correct, "official_correct": correct}
    return ItemResult(video=found, sample=sample, key="0" * 32, reply="A", frames=[0], **judged)


def result(lines):
    return EvalResult(kind="EvalResult", provenance={}, protocol="motionbench", model="m", scores=[], lines=lines)


ITEMS = [(0, 0, "Camera Motion"), (1, 0, "Camera Motion"), *((i, i - 1, "Action Order") for i in range(2, 6))]
BEFORE = [
    item(*what, right, "" if what[0] == 3 else "A") for what, right in zip(ITEMS, (1, 0, 0, 0, 0, 1), strict=True)
]
AFTER = [item(*what, right) for what, right in zip(ITEMS, (1, 1, 1, 1, 1, 0), strict=True)]


def test_by_hand():
    found = compare(result(BEFORE), result(AFTER))
    overall, average, order, camera = found.rows
    assert overall.difference.value == pytest.approx(100 * 3 / 6)
    assert (overall.untouched.value, overall.tuned.value) == pytest.approx((100 * 2 / 6, 100 * 5 / 6))
    assert average.difference.value == pytest.approx((50 + 50) / 2)
    assert (order.name, camera.name) == ("Action Order", "Camera Motion")
    assert overall.p == pytest.approx(2 * (1 + 5) / 2**5)  # 4 won, 1 lost: 2 · P(≤ 1 of 5)
    assert order.p == pytest.approx(min(1, 2 * 2 * (1 + 4) / 2**4))  # Holm: the smaller of two, doubled
    assert overall.unparsed == (1, 0)
    assert (overall.difference.n, overall.difference.clusters) == (6, 5)
    assert camera.difference.low is None  # both of one video
    assert overall.difference.low < 50 < overall.difference.high


def test_interval_against_all_resamples():
    """Five videos have 5⁵ resamples: their exact percentiles."""
    changes = {0: [0, 1], 1: [1], 2: [1], 3: [1], 4: [-1]}
    drawn = [[c for v in videos for c in changes[v]] for videos in itertools.product(range(5), repeat=5)]
    exact = np.quantile([100 * sum(c) / len(c) for c in drawn], [0.025, 0.975])
    found = compare(result(BEFORE), result(AFTER)).overall
    assert (found.low, found.high) == pytest.approx(tuple(exact), abs=4)


def test_only_shared_items_count():
    found = compare(result(BEFORE), result(AFTER[:3]))
    assert found.alone == 3
    assert found.overall.n == 3
    assert compare(result(BEFORE[:2]), result(AFTER[2:])) is None


def test_the_interval_is_drawn_around_the_tuned_dot():
    row = compare(result(BEFORE), result(AFTER)).rows[0]
    (untouched, *_), (tuned, low, high, _) = _dot(row).marks
    assert low < tuned < high
    assert (low > untouched) == (row.difference.low > 0)


def test_the_papers_row():
    motionbench = get_benchmark("motionbench")
    doubted, row = motionbench.paper[:2]
    assert (doubted.label, row.label) == ("Qwen2.5-VL-3B", "Qwen2.5-VL-7B")
    notes = []
    names = ("Overall", "Repetition Count", "unheard of")
    cells = [_paper_cell(motionbench, name, row, notes).striptags() for name in names]
    assert cells == ["52.8 → 57.0", "30.8 → 31.5", ""]
    assert notes == []
    assert _paper_cell(motionbench, "Overall", doubted, notes).striptags().endswith("56.6*")
    assert len(notes) == 1


def test_table_says_everything():
    text = str(_table(compare(result(BEFORE), result(AFTER)), None))
    assert "no row for this model" in text
    assert len(re.findall(r"<tr", text)) == 5
    assert "1 → 0" in text


def shown(n, videos):
    """What n questions of `videos` videos show, whose questions are all won, all lost, or unchanged in turn."""
    before = [item(k, k % videos, "Camera Motion", (k % videos) % 3 == 1) for k in range(n)]
    after = [item(k, k % videos, "Camera Motion", (k % videos) % 3 == 0) for k in range(n)]
    return detectable(compare(result(before), result(after)))


def numbers(text):
    pattern = r"(\d+)% judged differently, design effect ([\d.]+): a difference of ([\d.]+) points"
    return [float(number) for number in re.search(pattern, text).groups()]


def test_what_so_many_questions_can_show():
    share, effect, points = numbers(shown(300, 300))
    assert share == 67
    assert effect == pytest.approx(1, abs=0.1)
    assert points == pytest.approx(100 * minimal_detectable_difference(300, 2 / 3, design_effect=effect), abs=0.1)
    _, clustered, more = numbers(shown(300, 30))
    assert clustered == pytest.approx(10, rel=0.2)  # a video's questions agree wholly
    assert more > 2.5 * points
    assert "too few" in shown(4, 1)
