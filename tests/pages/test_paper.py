"""The paper's numbers beside a run's: one model's row, the whole table, and the stars of doubtful cells."""

import re

from components.benchmarks.interface import get_benchmark
from components.pages.paper import Doubts, paper_pair, paper_row, paper_table


def test_the_papers_row():
    motionbench = get_benchmark("motionbench")
    row, doubts = paper_row(motionbench, "qwen2.5-vl-7b"), Doubts()
    cells = [paper_pair(row, name, doubts).striptags() for name in ("Overall", "RC", "unheard of")]
    assert cells == ["52.8 → 57.0", "30.8 → 31.5", ""]
    assert doubts.notes == []
    doubted = paper_row(motionbench, "qwen2.5-vl-3b")
    assert paper_pair(doubted, "Overall", doubts).striptags().endswith("56.6*")
    assert paper_pair(doubted, "MR", doubts).striptags().endswith("63.1")
    assert len(doubts.notes) == 1
    assert paper_pair(paper_row(motionbench, "qwen2.5-vl-72b"), "Overall", doubts).striptags() == "58.3**"
    assert paper_row(motionbench, "tiny-qwen2.5-vl") is None


def test_the_papers_whole_table():
    found = str(
        paper_table(get_benchmark("videomme"), [("untouched", {"Overall": 50.0}), ("tuned", {"Overall": 51.5})])
    )
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in found.split("<tr")[2:]]
    assert rows[:2] == [["untouched", "50.0", "", "", ""], ["tuned", "51.5", "", "", ""]]  # no frames are printed
    assert rows[4] == ["VideoChat-Flash-7B", "65.3*", "78.0", "67.8", "55.6"]
    assert ["Qwen2.5-VL-7B + MotionEnhancer", "61.4", "72.8", "61.1", "50.2"] in rows
    assert "8 rows" in found
    assert "* Short, Medium and Long have equally many questions, and their mean is 67.1." in found
    found = str(paper_table(get_benchmark("motionbench"), []))
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in found.split("<tr")[2:]]
    assert rows[0][:4] == ["Qwen2.5-VL-3B", "1 fps", "53.6", "49.5"]
    assert ["GLM4-9B + TE Fusion", "16", "58.0", *[""] * 7] in rows
    assert rows[-1][0] == "Qwen2.5-VL-72B**"
