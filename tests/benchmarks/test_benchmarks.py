"""Prompts word for word, task types, metric definitions against the counts of the paper, frame presets."""

from __future__ import annotations

import pytest

from components.benchmarks.interface import Benchmark, benchmarks, get_benchmark, parse_benchmark
from components.benchmarks.parse import parse_reply
from components.core.errors import DataError
from components.core.records import Option, Sample
from components.media.viewing import Viewing
from components.models.vlm.internvl3 import FAMILY as INTERNVL
from components.models.vlm.qwen2_5_vl import FAMILY as QWEN
from components.quality.statistics import accuracy

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


COUNTS = {
    "motionbench": {"MR": 1478, "LM": 546, "AO": 519, "RC": 400, "MO": 690, "CM": 385},
    "favor": {"AS": 2637, "HAC": 1541, "SAD": 1662, "MAD": 1205, "CM": 1075, "NSM": 64},
}  # supplement, Table 2


def printed(name: str) -> dict[str, dict[str, float]]:
    """Every row of the paper with numbers by task type, by label."""
    rows = get_benchmark(name).paper
    found = {row.label: row.untouched for row in rows}
    found |= {f"{row.label} + MotionEnhancer": row.tuned for row in rows if row.tuned}
    return {label: values for label, values in found.items() if set(COUNTS[name]) <= set(values)}


def measured(name: str, cells: dict[str, float]) -> dict[str, float]:
    """Overall, Average and types of items that are right as often as a row's types say, in percent."""
    right, types = [], []
    for kind, n in COUNTS[name].items():
        hits = round(cells[kind] * n / 100)
        right += [True] * hits + [False] * (n - hits)
        types += [kind] * n
    videos = [str(i // 3) for i in range(len(types))]

    def means(own):
        return accuracy([right[i] for i in own], [videos[i] for i in own], [types[i] for i in own])

    totals, by_type = get_benchmark(name).measure(means, types)
    return {key: 100 * one.value for key, one in {**totals, **by_type}.items()}


@pytest.mark.parametrize(("name", "label"), [(name, label) for name in COUNTS for label in printed(name)])
def test_the_papers_rows_through_the_metrics(name: str, label: str) -> None:
    """Each row's items, rebuilt from its types, give the Overall and Average that it prints."""
    cells, found = printed(name)[label], measured(name, printed(name)[label])
    rounded = (name, label) == ("motionbench", "Qwen2.5-VL-72B")  # its types have one decimal
    for kind in COUNTS[name]:  # each is a share of its items, to the printed decimals
        assert found[kind] == pytest.approx(cells[kind], abs=0.051 if rounded else 0.0051)
    for metric in ("Overall", "Average"):
        assert found[metric] == pytest.approx(cells[metric], abs=0.021 if rounded else 0.0101)


def test_all_rows_of_the_papers_tables_are_there() -> None:
    assert {name: len(printed(name)) for name in COUNTS} == {"motionbench": 10, "favor": 21}  # Tables 3 and 4
    assert len(get_benchmark("motionbench").paper) == 11  # five more with Overall alone, four of the ten are tuned
    for name, own in (("seed", 8), ("videomme", 8)):  # Table 7
        assert sum(1 + bool(row.tuned) for row in get_benchmark(name).paper) == own
    tuned = [(name, row.label) for name, one in benchmarks().items() for row in one.paper if row.tuned]
    assert len(tuned) == 12


def test_doubted_cells_are_those_that_do_not_follow() -> None:
    """Table 7: Overall is the mean of three equally many; All lies between Image and Video at one share of images."""
    for row in get_benchmark("videomme").paper:
        for side in (row.untouched, row.tuned):
            if side:
                follows = abs(side["Overall"] - (side["Short"] + side["Medium"] + side["Long"]) / 3) < 0.07
                assert follows == ("untouched.Overall" not in row.flags)
    for row in get_benchmark("seed").paper:
        sides = [side for side in (row.untouched, row.tuned) if side]
        spread = 0.1 / (sides[0]["Image"] - sides[0]["Video"])
        shares = [(side["All"] - side["Video"]) / (side["Image"] - side["Video"]) for side in sides]
        assert all(abs(share - 14240 / 17997) < spread for share in shares) == ("row" not in row.flags)
