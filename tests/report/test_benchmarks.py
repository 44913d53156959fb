"""Paired comparisons against counting by hand, the paper's numbers beside them, and what so many questions can show."""

import re
from itertools import product

import pytest

from components.benchmarks.interface import get_benchmark
from components.core.artifacts import EvalResult, ItemResult
from components.core.records import Option, Ref, Sample, Video
from components.pages.paper import paper_row
from components.quality.statistics import minimal_detectable_difference
from components.report.benchmarks import _dot, _table, compare, detectable
from components.report.replies import letter_table, reply_tables, rule_table

OPTIONS = [Option(letter=letter, text=letter.lower()) for letter in "ABC"]


def item(name, video, kind, correct, parsed="A", rule="letter", answer="A"):
    ref = Ref(path="v", sha256=f"{video:064x}", bytes=1, task="t")
    asked = {
        "id": f"{name:016x}",
        "uid": str(name),
        "question": "?",
        "response": "",
        "answer": answer,
        "options": OPTIONS,
    }
    sample = Sample(**asked, is_instruction=False, question_type=kind)
    found = Video(file=ref, width=2, height=2, rotation=0, duration=1, times=[0.0])
    judged = {"parsed": parsed, "rule": rule, "correct": correct, "official_correct": correct}
    return ItemResult(video=found, sample=sample, key="0" * 32, reply="A", frames=[0], **judged)


def result(lines, protocol="motionbench"):
    return EvalResult(kind="EvalResult", provenance={}, protocol=protocol, model="m", scores=[], lines=lines)


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
    # four videos with a sum of +1 and one of −1; one more with no change: |sum| ≥ 3 in 12 of 32 patterns
    assert overall.p == pytest.approx(12 / 32)
    assert order.p == 1  # three won, one lost, single items: |sum| ≥ 2 in 10 of 16 patterns, doubled by Holm
    # Average: parts ½ · ¼ of each video of the first type, ½ · ½ of the other's: all 32 patterns
    parts = [0.25, 0.125, 0.125, 0.125, -0.125]
    sums = [
        abs(sum(sign * part for sign, part in zip(signs, parts, strict=True))) for signs in product((1, -1), repeat=5)
    ]
    assert average.p == pytest.approx(sum(one >= 0.5 for one in sums) / 32)
    assert overall.unparsed == (1, 0)
    assert (overall.difference.n, overall.difference.clusters) == (6, 5)
    assert camera.difference.low is None  # both of one video
    assert overall.difference.low < 50 < overall.difference.high


def test_types_have_one_name_however_they_are_written():
    """Abbreviations, names and other cases are one type, in the benchmark's order."""
    names = {"Action Order": "AO", "Camera Motion": "camera motion"}

    def spelled(line):
        kind = names[line.sample.question_type] if line.sample.id.endswith(("1", "4")) else line.sample.question_type
        return line.model_copy(update={"sample": line.sample.model_copy(update={"question_type": kind})})

    spelt = [result([spelled(line) for line in lines]) for lines in (BEFORE, AFTER)]
    written, found = compare(result(BEFORE), result(AFTER)), compare(*spelt)
    assert found.rows == written.rows
    assert [row.name for row in found.rows] == ["Overall", "Average", "Action Order", "Camera Motion"]


def answered(protocol, kinds):
    """A comparison of nine items of each type, three per video, most of which the tuned model gets right."""
    items = [(k, k // 3, kind) for k, kind in enumerate(kind for kind in kinds for _ in range(9))]
    before, after = ([item(*one, one[0] % each != 0) for one in items] for each in (2, 5))
    return compare(result(before, protocol), result(after, protocol))


def test_a_benchmarks_own_metrics():
    found = answered("videomme", ["short", "medium", "long"])
    assert [row.name for row in found.rows] == ["Overall", "Short", "Medium", "Long"]  # each type once
    assert [row.difference.n for row in found.rows] == [27, 9, 9, 9]
    found = answered("seed", ["Scene Understanding", "AR", "Procedure Understanding"])
    names = [row.name for row in found.rows]
    assert names == ["All", "Image", "Video", "Scene Understanding", "Action Recognition", "Procedure Understanding"]
    assert [row.difference.n for row in found.rows] == [27, 9, 18, 9, 9, 9]
    right = [row.tuned.value for row in found.rows]
    assert right[0] == pytest.approx((right[1] + 2 * right[2]) / 3)


def test_the_papers_numbers_beside_the_benchmarks_own_metrics():
    def table(protocol, kinds, model):
        return str(_table(answered(protocol, kinds), paper_row(get_benchmark(protocol), model)))

    shown = re.sub(r"<[^>]*>", " ", table("seed", ["SU", "AR"], "qwen2.5-vl-7b"))
    assert re.search(r"All 18 .* 74.1 → 72.9\*", re.sub(r"\s+", " ", shown))
    assert "61.3 → 62.1" in shown
    assert "* the table mixes" in shown
    shown = table("videomme", ["short", "long"], "internvl3-8b")
    assert [pair in shown for pair in ("62.1 → 62.3", "71.8 → 73.0", "52.6 → 51.7", "61.9 → 62.2")] == [True] * 3 + [
        False
    ]


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


def test_table_says_everything():
    text = str(_table(compare(result(BEFORE), result(AFTER)), None))
    assert "no row for this model" in text
    assert len(re.findall(r"<tr", text)) == 5
    assert "1 → 0" in text


def test_how_replies_were_read():
    before = [item(k, k, "CM", k < 2, letter, rule, answer) for k, (letter, rule, answer) in enumerate(REPLIES)]
    after = [item(k, k, "CM", True, "ABCA"[k], "letter", "ABCA"[k]) for k in range(4)]
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in str(rule_table(before, after)).split("<tr")[2:]]
    unparsed = ["unparsed, counted as wrong", "1 (0)", ""]
    assert cells == [["one letter", "2 (2)", "4 (4)"], ["an option&#39;s text", "1 (0)", ""], unparsed]
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in str(letter_table(before, after)).split("<tr")[2:]]
    assert cells == [
        ["A", "2", "2 → 2", "50% → 100%"],
        ["B", "1", "1 → 1", "100% → 100%"],
        ["C", "1", "0 → 1", "0% → 100%"],
    ]
    text = reply_tables(before, after).striptags()
    assert "untouched: 1.0, p = 1.000; tuned: 0.0, p = 1.000" in text
    assert "no reply was read" in reply_tables([before[3]], [after[3]]).striptags()


REPLIES = [("A", "letter", "A"), ("B", "letter", "B"), ("A", "text", "C"), ("", "unparsed", "A")]


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
