"""What a benchmark's number of questions can show, beside its table."""

import re

import pytest

from components.quality.statistics import minimal_detectable_difference
from components.report.benchmarks import compare, detectable
from tests.report.test_benchmarks import item, result


def both(n, videos):
    """n questions of `videos` videos; each video's are all won, all lost, or unchanged in turn."""
    before = [item(k, k % videos, "Camera Motion", (k % videos) % 3 == 1) for k in range(n)]
    after = [item(k, k % videos, "Camera Motion", (k % videos) % 3 != 1 and (k % videos) % 3 == 0) for k in range(n)]
    return compare(result(before), result(after))


def told(n, videos):
    found = re.search(
        r"(\d+)% judged differently, design effect ([\d.]+): a difference of ([\d.]+) points",
        detectable(both(n, videos)),
    )
    return [float(number) for number in found.groups()]


def test_a_video_a_question_is_the_independent_case():
    share, effect, points = told(300, 300)
    assert share == 67
    assert effect == pytest.approx(1, abs=0.1)
    assert points == pytest.approx(100 * minimal_detectable_difference(300, 2 / 3, design_effect=effect), abs=0.1)


def test_ten_questions_a_video_show_less():
    _, effect, points = told(300, 30)
    assert effect == pytest.approx(10, rel=0.2)  # a video's questions agree wholly
    assert points > 2.5 * told(300, 300)[2]


def test_a_single_video_says_nothing():
    assert "too few" in detectable(both(4, 1))
