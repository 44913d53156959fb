"""Scores of answered items: their intervals by video, and the prompt that stays with a reply."""

from itertools import count

import pytest

from components.benchmark_eval.page import scores_table
from components.benchmark_eval.scores import judged, scores
from components.benchmarks.interface import get_benchmark
from components.core.artifacts import VideoLine
from components.core.records import Option, Ref, Sample, Video
from components.store.entries import Entry

FAVOR, NUMBER = get_benchmark("favor"), count()


def answered(video, reply, kind="Camera Motion", prompt=None):
    ref = Ref(path="v", sha256=f"{video:064x}", bytes=1, task="t")
    options = [Option(letter="A", text="Pans"), Option(letter="B", text="Stays")]
    asked = {"question": "?", "is_instruction": False, "response": "", "answer": "A", "question_type": kind}
    sample = Sample(id=f"{video:016x}", uid=f"q{next(NUMBER)}", options=options, **asked, protocol="favor")
    line = VideoLine(video=Video(file=ref, width=2, height=2, rotation=0, duration=1, times=[0.0]), samples=[sample])
    reads = {} if prompt is None else {"prompt": prompt}
    entry = Entry(
        step="benchmark_eval", version="1", key="k", unit="", reads=reads, numbers={"reply": reply, "frames": [0]}
    )
    return judged(line, sample, FAVOR, entry)


def test_the_prompt_stays_with_the_reply():
    line = answered(1, "Pans", prompt="Which? ['Pans', 'Stays']")
    assert (line.prompt, line.correct) == ("Which? ['Pans', 'Stays']", True)
    before = answered(1, "Pans")
    assert before.prompt is None
    assert "prompt" not in before.model_dump(mode="json")  # a manifest from before keeps its bytes


def test_intervals_by_video():
    """Ten videos of three questions that agree wholly are worth ten; a type of one video has no interval."""
    lines = [answered(video, "Pans" if video < 7 else "no idea") for video in range(10) for _ in range(3)]
    lines += [answered(10, "Stays", "NSM")] * 2
    found = {score.name: score for score in scores(lines, FAVOR)}
    assert list(found) == ["CM", "NSM", "Overall", "Average", "Official rule"]
    apart = scores([answered(k, "Pans" if k < 21 else "no idea") for k in range(30)], FAVOR)[0]
    assert found["CM"].accuracy == apart.accuracy == pytest.approx(70)
    assert found["CM"].high - found["CM"].low > 1.4 * (apart.high - apart.low)
    assert (found["CM"].unparsed, found["NSM"].correct, found["NSM"].low) == (9, 0, None)
    assert found["Average"].accuracy == pytest.approx(35)
    assert found["Average"].low == pytest.approx(0, abs=20)  # of NSM nothing is known
    shown = scores_table("FAVOR", list(found.values()), FAVOR.types)
    assert "Non-Subject Motion" in shown
    assert "1 video" in shown


def test_nothing_right_is_no_certainty():
    found = scores([answered(video, "Stays") for video in range(20)], FAVOR)
    assert all((score.accuracy, score.low) == (0, 0) and 10 < score.high < 20 for score in found)
