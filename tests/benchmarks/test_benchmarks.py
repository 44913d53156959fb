"""Prompts word for word, task types, metric definitions against the counts of the paper, frame presets."""

from __future__ import annotations

import numpy as np
import pytest

from components.benchmarks.interface import Benchmark, benchmarks, get_benchmark, parse_benchmark
from components.benchmarks.parse import parse_reply
from components.core.errors import DataError
from components.core.records import Option, Sample
from components.media.viewing import Viewing
from components.models.vlm.internvl3 import FAMILY as INTERNVL
from components.models.vlm.qwen2_5_vl import FAMILY as QWEN

OPTIONS = [Option(letter="A", text="It's up"), Option(letter="B", text="Down")]


def test_prompts_word_for_word() -> None:
    prompt = {name: benchmark.prompt("Where?", OPTIONS) for name, benchmark in benchmarks().items()}
    assert prompt["motionbench"] == "Where?\nA. It's up\nB. Down\nAnswer with only the option letter."
    assert prompt["favor"] == (
        "Carefully watch the video and pay attention to temporal dynamics in this video, focusing on the camera "
        "motions, actions, activities, and interactions. Based on your observations, select the best option that "
        "accurately addresses the question.\nWhere?\nYou can only response with the answer among [\"It's up\", 'Down']"
    )
    asked = "Where?\nA. It's up\nB. Down\n"
    assert prompt["seed"] == f"{asked}Answer with the option's letter from the given choices directly."
    assert prompt["videomme"] == (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        f"letter (A, B, C, or D) of the correct option.\n{asked}The best answer is:"
    )


def test_a_template_in_place_of_the_own_prompt() -> None:
    template = "{options}\n{Think}: {question}"
    assert get_benchmark("seed").ask("{options}?", OPTIONS, template) == "A. It's up\nB. Down\n{Think}: {options}?"
    assert get_benchmark("favor").ask("Where?", OPTIONS, template) == "It's up\nDown\n{Think}: Where?"
    assert get_benchmark("favor").ask("Where?", OPTIONS) == get_benchmark("favor").prompt("Where?", OPTIONS)


@pytest.mark.parametrize("benchmark", benchmarks().values(), ids=benchmarks())
def test_the_expected_reply_is_right_by_both_rules(benchmark: Benchmark) -> None:
    reply = "B" if benchmark.shows_letters else "Down"
    assert parse_reply(reply, OPTIONS, letters=benchmark.shows_letters).letter == "B"
    assert benchmark.official_rule(reply, OPTIONS, "B")


def test_types_by_name_or_abbreviation() -> None:
    motionbench = get_benchmark("motionbench")
    given = ("Camera Motion", "camera motion", "CM", "cm ")
    assert {motionbench.task_type(name, "x") for name in given} == {"CM"}
    with pytest.raises(DataError, match="item u7"):
        motionbench.task_type("Optical Flow", "item u7")
    assert list(motionbench.types.values()) == ["MR", "LM", "AO", "RC", "MO", "CM"]
    assert list(get_benchmark("favor").types.values()) == ["AS", "HAC", "SAD", "MAD", "CM", "NSM"]
    seed = get_benchmark("seed")
    assert len(seed.types) == len(set(seed.types.values())) == 12
    assert parse_benchmark("motionbench=minio://b/x=y") == ("motionbench", "minio://b/x=y")


def test_metric_groups_part_the_types() -> None:
    for name, groups in (("seed", ("Image", "Video")), ("videomme", ("Short", "Medium", "Long"))):
        protocol = get_benchmark(name)
        parts = [metric.types for metric in protocol.metrics if metric.types is not None]
        assert tuple(metric.name for metric in protocol.metrics if metric.types is not None) == groups
        assert sorted(t for part in parts for t in part) == sorted(protocol.types.values())
    assert [(m.name, m.kind) for m in get_benchmark("favor").metrics] == [("Overall", "micro"), ("Average", "macro")]


def test_what_cannot_be_an_item() -> None:
    check, texts = get_benchmark("motionbench").check, {"question": "Where?", "response": "B", "answer": "B"}
    kind = {"is_instruction": False, "options": OPTIONS, "question_type": "Camera Motion"}
    sample = Sample(id="0" * 16, uid="u1", **texts, **kind)
    check(sample)
    for change in ({"answer": ""}, {"answer": "C"}, {"options": []}, {"question_type": "Colour"}):
        with pytest.raises(DataError, match="u1"):
            check(sample.model_copy(update=change))


def test_frame_presets() -> None:
    paper, favor = Viewing(), get_benchmark("favor").viewing
    assert (paper.fps, paper.num_frames) == (1, 8)
    assert favor(paper, "paper", INTERNVL, 12.0) is paper
    assert favor(paper, "supplement", INTERNVL, 12.0).num_frames == 12
    assert favor(paper, "supplement", INTERNVL, 0.3).num_frames == 1
    assert get_benchmark("motionbench").viewing(paper, "supplement", INTERNVL, 12.0) is paper
    assert favor(paper, "supplement", QWEN, 12.0) is paper
    other = paper.model_copy(update={"num_frames": 16})  # a run's own number gives way on FAVOR-Bench, at every length
    found = [favor(other, "supplement", INTERNVL, duration).num_frames for duration in (7.0, 8.0, 9.0)]
    assert found == [7, 8, 9]


@pytest.mark.parametrize(
    ("name", "counts"),
    [("motionbench", [1478, 546, 519, 400, 690, 385]), ("favor", [2637, 1541, 1662, 1205, 1075, 64])],
)
def test_the_papers_overall_is_the_counts_mean(name: str, counts: list[int]) -> None:
    """Check our copy: Overall is the types' mean by count (supplement, Table 2), Average the plain one."""
    benchmark = get_benchmark(name)
    cells = [side for row in benchmark.paper for side in (row.untouched, row.tuned)]
    assert len(cells) == 8
    for cell in cells:
        types = [cell[short] for short in benchmark.types.values()]
        assert cell["Average"] == pytest.approx(np.mean(types), abs=0.011)
        assert cell["Overall"] == pytest.approx(np.average(types, weights=counts), abs=0.02)
