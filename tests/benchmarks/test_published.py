"""MotionBench and FAVOR-Bench in each layout they are published in, a set of one's own: from files to the report."""

import json
import shutil

import pytest

from components.benchmark_eval.scores import judged
from components.benchmark_eval.step import STEP as EVALUATE
from components.benchmark_eval.step import items
from components.benchmarks.interface import benchmarks, get_benchmark
from components.core.artifacts import EvalResult, ItemResult, VideoDataset
from components.core.errors import DataError
from components.core.lines import Lines
from components.dataset_import.checks import refuse_other_counts
from components.dataset_import.sources import read_source
from components.dataset_import.step import STEP as IMPORT
from components.report.benchmarks import compare
from components.store.entries import Entry
from tests.dataset_import.data import clip, document, lines
from tests.report.section import benchmark_section
from tests.runner import published, run_step
from tests.vlm_attention.made import VIEWING

META = "video_info.meta.jsonl"


def motionbench(root, annotations, collected, public):
    """Three clips of six questions, two of them held out; records as on the hub, made up."""

    def video(name, kind, *qa):
        info = {"duration": 1.5, "fps": 8.0, "resolution": {"width": 48, "height": 32}}
        asked = [
            {"uid": uid, "start": None, "end": None, "answer": answer, "question": text} for uid, answer, text in qa
        ]
        stem = name.removesuffix(".mp4")
        return {
            "question_type": kind,
            "video_type": "x",
            "key": stem,
            "video_path": name,
            "qa": asked,
            "video_info": info,
        }

    ways = "\nA. Up\nB. Down\nC. Not at all"
    rows = [
        video("3f0a_58_59.mp4", "Action Order", ("Qk3T_1", "B", f"First?{ways}"), ("Qk3T_2", "NA", f"Then?{ways}")),
        video(
            "9c1.mp4",
            "Camera Motion",
            ("Zz_1", "C", f"How does the camera move?{ways}"),
            ("Zz_2", "A", f"And?{ways}"),
            ("Zz_3", "NA", f"So?{ways}"),
        ),
        video("77_0_4.mp4", "Repetition Count", ("Rr", "A", "How often?\nA. 1\nB. 2\nC. 3\nD. 4")),
    ]
    lines(root / annotations, rows)
    for seed, path in enumerate((f"{collected}/3f0a_58_59.mp4", f"{collected}/9c1.mp4", f"{public}/77_0_4.mp4")):
        clip(root / path, seed=seed)


def hub(root):
    motionbench(root, f"MotionBench/{META}", "MotionBench/self-collected", "MotionBench/public-dataset")


def repository(root):
    """The clips lie beside the annotations."""
    motionbench(root, f"data/{META}", "data/self-collected", "data/public-dataset")
    document(root / "data/mapping.json", {"original": "uuid"})


def repository_and_folders(root):
    motionbench(root, f"data/{META}", "self-collected", "public-dataset")


def both(root):
    """A clone of the repository with the hub's folder in it: the same annotations twice."""
    hub(root)
    (root / "data").mkdir()
    shutil.copy(root / f"MotionBench/{META}", root / f"data/{META}")


FAVOR = {"00AAA": [("Sits", "HAC"), ("Walks, then sits", "AS")], "VR_h_z_35": [("Runs.", "SAD"), ("Zooms in", "CM")]}
TEXTS = ["Sits", "Walks, then sits", "Runs.", "Zooms in", "Sleeps"]


def favor(root, folder, *, suffix="", by_video=True, by_question=False):
    questions = [
        {"question_key": f"{name}_{k}", "video_name": name + suffix, "question": f"What, {k}?", "options": TEXTS}
        | {"correct_answer": right, "task_type": kind}
        for name, asked in FAVOR.items()
        for k, (right, kind) in enumerate(asked, start=1)
    ]
    told = {"caption": "…", "camera_motion": "Stationary", "subject_attributes": "Subject 1: Man [ … ]"}
    told |= {"motion_list": "Subject 1: Man [Walks, sits]", "chronological_motion_list": "Walks, Sits"}
    if by_question:
        document(root / "question_perspective.json", questions)
    if by_video:
        own = {name: [item for item in questions if item["video_name"] == name + suffix] for name in FAVOR}
        bare = ("question", "options", "correct_answer", "task_type")
        videos = [
            {"video_name": name + suffix, **told, "questions": [{key: item[key] for key in bare} for item in asked]}
            for name, asked in own.items()
        ]
        document(root / "video_perspective.json", videos)
    for seed, name in enumerate(FAVOR, start=10):
        clip(root / folder / f"{name}.mp4", seed=seed)


LAYOUTS = {
    "motionbench-hub": ("motionbench", hub),
    "motionbench-repository": ("motionbench", repository),
    "motionbench-repository-and-folders": ("motionbench", repository_and_folders),
    "motionbench-both": ("motionbench", both),
    "favor-hub": ("favor", lambda root: favor(root, "videos/FAVOR-Bench", suffix=".mp4", by_question=True)),
    "favor-videos": ("favor", lambda root: favor(root, "videos", suffix=".mp4")),
    "favor-repository": ("favor", lambda root: favor(root, "test_videos")),
    "favor-questions": (
        "favor",
        lambda root: favor(root, "videos/FAVOR-Bench", suffix=".mp4", by_video=False, by_question=True),
    ),
    "favor-questions-repository": ("favor", lambda root: favor(root, "test_videos", by_video=False, by_question=True)),
}
EXPECTED = {
    "motionbench": {"Overall": 4, "AO": 1, "CM": 2, "RC": 1},
    "favor": {"Overall": 4, "HAC": 1, "AS": 1, "SAD": 1, "CM": 1},
}


def imported(tmp_path, given, **params):
    params = {"processes": 1, "allow_subset": True, **params}
    shared = {"benchmarks": [given]}
    return run_step(IMPORT, tmp_path, tmp_path / "store", params, shared, form="benchmark", task="benchmark_import")


def evaluated(tmp_path, given, videos):
    shared = {"vlm": "tiny-qwen2.5-vl", "benchmark": given}
    return run_step(
        EVALUATE,
        tmp_path,
        tmp_path / "store",
        {"viewing": VIEWING, "max_new_tokens": 4},
        shared,
        {"videos": videos},
        form="untouched",
    )


def reported(before):
    """The report's rows, where the tuned model answers everything right."""
    after = before.model_copy(
        update={"lines": Lines(ItemResult, (line.model_copy(update={"correct": True}) for line in before.lines))}
    )
    return compare(before, after)


@pytest.mark.parametrize("name", LAYOUTS)
def test_from_its_published_files_to_the_report(tmp_path, name):
    protocol, write = LAYOUTS[name]
    write(tmp_path / "data")
    given = f"{protocol}={tmp_path / 'data'}"
    with pytest.raises(DataError, match="as published"):
        imported(tmp_path, given, allow_subset=False)
    made = imported(tmp_path, given)
    data = published(made, "videos", VideoDataset)
    assert not data.left_out
    assert len(data.lines) == {"motionbench": 3, "favor": 2}[protocol]
    answered = evaluated(tmp_path, given, made["videos"])
    found = published(answered, "result", EvalResult)
    counts = {score.name: score.n for score in found.scores if score.name not in ("Average", "Official rule")}
    assert counts == EXPECTED[protocol]
    benchmark = get_benchmark(protocol)
    asked = f"4 of {benchmark.counts.answered:,} items with an answer were asked."
    assert answered["table"].read_text().startswith(f"# {benchmark.title} · tiny-qwen2.5-vl\n\n{asked}\n")
    rows = {row.name: row.tuned.n for row in reported(found).rows}
    assert rows["Overall"] == rows["Average"] == 4
    page = benchmark_section(tmp_path / "store", found)
    assert f"4 of {benchmark.counts.answered:,} items" in page
    assert "data:image/" in page


def test_two_annotation_files_that_differ_are_refused(tmp_path):
    both(tmp_path)
    with (tmp_path / f"data/{META}").open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match="differ"):
        imported(tmp_path, f"motionbench={tmp_path}")


# A set of one's own ---------------------------------------------------------------------------------------------------


def custom(root, kinds):
    for k in range(len(kinds)):
        clip(root / f"{k}.mp4", seed=k)
    bare = {"question": "Which way?", "options": ["(A) left", "(B) right"], "answer": "right"}
    lines(
        root / "items.jsonl",
        [bare | {"video": f"{k}.mp4"} | ({"type": kind} if kind else {}) for k, kind in enumerate(kinds)],
    )


@pytest.mark.parametrize(
    ("given", "title", "kinds", "shown"),
    [
        ("custom", "Custom", ["slow", "fast", "fast"], ["fast", "slow", "Overall", "Average"]),
        ("custom:gym", "gym", ["slow", "", "fast"], ["fast", "slow", "untyped", "Overall", "Average"]),
        ("custom:gym", "gym", ["", ""], ["untyped", "Overall", "Average"]),
    ],
)
def test_a_set_of_ones_own_has_its_own_types_and_name(tmp_path, given, title, kinds, shown):
    custom(tmp_path / "data", kinds)
    given = f"{given}={tmp_path / 'data'}"
    made = imported(tmp_path, given, allow_subset=False)
    answered = evaluated(tmp_path, given, made["videos"])
    found = published(answered, "result", EvalResult)
    assert [score.name for score in found.scores] == [*shown, "Official rule"]
    assert {line.sample.answer for line in found.lines} == {"B"}
    asked = f"{len(kinds)} of {len(kinds)} items with an answer were asked."
    assert answered["table"].read_text().startswith(f"# {title} · tiny-qwen2.5-vl\n\n{asked}\n")
    compared = reported(found)
    assert compared.benchmark.title == title
    # where all are of one type the report has that number once
    assert {row.name for row in compared.rows} == ({*shown} if len(set(kinds)) > 1 else {"Overall"})


# Submission files -----------------------------------------------------------------------------------------------------


def answered(data, benchmark, replies):
    """Lines as an evaluation that asks held-out items writes them, with given replies by uid."""
    units = items(data, benchmark, held_out=True)
    made = {"step": "benchmark_eval", "version": "1", "unit": "", "reads": {}}
    entries = {
        unit.sample.id: Entry(**made, key=unit.sample.id, numbers={"reply": replies[unit.sample.uid], "frames": [0]})
        for unit in units
    }
    return [judged(unit.line, unit.sample, benchmark, entries[unit.sample.id]) for unit in units]


def test_motionbench_held_out_items_are_asked_and_submitted(tmp_path):
    hub(tmp_path / "data")
    data = published(imported(tmp_path, f"motionbench={tmp_path / 'data'}"), "videos", VideoDataset)
    benchmark = get_benchmark("motionbench")
    assert sorted(unit.sample.uid for unit in items(data, benchmark)) == ["Qk3T_1", "Rr", "Zz_1", "Zz_2"]
    replies = {"Qk3T_1": "B", "Qk3T_2": "The answer is C.", "Zz_1": "A", "Zz_2": "I cannot say.", "Zz_3": "", "Rr": "D"}
    found = answered(data, benchmark, replies)
    right = {line.sample.uid: (line.correct, line.official_correct) for line in found}
    assert right == dict.fromkeys(replies, (False, False)) | {"Qk3T_1": (True, True)}
    name, text = benchmark.submission(found)
    assert name == "motionbench.json"
    with pytest.raises(DataError, match="2 items are called Rr"):
        benchmark.submission([*found, *(line for line in found if line.sample.uid == "Rr")])
    assert json.loads(text) == {"Qk3T_1": "B", "Qk3T_2": "C", "Zz_1": "A", "Zz_2": "", "Zz_3": "", "Rr": "D"}


def test_favor_submission_is_what_its_script_writes(tmp_path):
    favor(tmp_path / "data", "test_videos")
    data = published(imported(tmp_path, f"favor={tmp_path / 'data'}"), "videos", VideoDataset)
    replies = {
        "00AAA#1": "sits",
        "00AAA#2": "Walks, then sits",
        "VR_h_z_35#1": "Runs. Or sleeps",
        "VR_h_z_35#2": "He sleeps — 走",
    }
    name, text = get_benchmark("favor").submission(answered(data, get_benchmark("favor"), replies))
    assert name == "favor.jsonl"
    read = {}
    for line in text.splitlines():
        read.update(json.loads(line))
    judged = {"00AAA": [True, True], "VR_h_z_35": [True, False]}
    expected = {
        video: [
            {"task_type": kind, "correct_answer": right, "output": replies[f"{video}#{k}"], "judge": judge}
            for k, ((right, kind), judge) in enumerate(zip(FAVOR[video], judged[video], strict=True), start=1)
        ]
        for video in FAVOR
    }
    assert read == expected
    assert "走" in text


def test_videomme_submission_has_the_fields_of_its_template(tmp_path):
    clip(tmp_path / "data/a.mp4")
    row = {"video": "a.mp4", "question": "Q?", "options": ["A. Up.", "B. Down."], "type": "Short", "answer": "B"}
    lines(tmp_path / "data/x.jsonl", [row | {"id": f"001-{n}", "question": f"Q{n}?"} for n in (1, 2)])
    data = published(imported(tmp_path, f"videomme={tmp_path / 'data'}"), "videos", VideoDataset)
    benchmark = get_benchmark("videomme")
    found = answered(data, benchmark, {"001-1": "B", "001-2": "A. Up."})
    with pytest.raises(DataError, match="no video_id, domain, sub_category, task_type"):
        benchmark.submission(found)
    labels = {"video_id": "001", "domain": "Knowledge", "sub_category": "Law", "task_type": "Counting Problem"}
    found = [line.model_copy(update={"sample": line.sample.model_copy(update={"labels": labels})}) for line in found]
    _, text = benchmark.submission(found)
    asked = {"task_type": "Counting Problem", "choices": ["A. Up.", "B. Down."], "answer": "B"}
    expected = {
        "video_id": "001",
        "duration_category": "short",
        "video_category": "Knowledge",
        "video_subcategory": "Law",
    }
    questions = [asked | {"question_id": f"001-{n}", "question": f"Q{n}?"} for n in (1, 2)]
    replies = [{"response": "B"}, {"response": "A. Up."}]
    expected["questions"] = [question | reply for question, reply in zip(questions, replies, strict=True)]
    assert json.loads(text) == [expected]


def test_which_benchmarks_have_a_submission_and_published_counts():
    """Sums of the counts: supplement, Table 2; FAVOR-Bench and Video-MME by their own scripts."""
    counts = {name: benchmark.counts for name, benchmark in benchmarks().items() if benchmark.counts is not None}
    assert {name: (found.answered, found.held_out) for name, found in counts.items()} == {
        "motionbench": (4018, 4034),
        "favor": (8184, 0),
        "videomme": (2700, 0),
    }
    assert {name for name, benchmark in benchmarks().items() if benchmark.submission is not None} == {*counts}
    assert all(set(found.by_type) == set(get_benchmark(name).types.values()) for name, found in counts.items())


# Published sizes ------------------------------------------------------------------------------------------------------


SIZES = {
    "motionbench": {"MR": 1478, "LM": 546, "AO": 519, "RC": 400, "MO": 690, "CM": 385, "held out": 4034},
    "favor": {"AS": 2637, "HAC": 1541, "SAD": 1662, "MAD": 1205, "CM": 1075, "NSM": 64},
}


def sized(root, protocol, counts):
    """Annotations with so many items of each type; no clip is there, which is no matter of counts."""
    rows, videos = [], []
    for kind, count in counts.items():
        named, answer = ("MR", "NA") if kind == "held out" else (kind, "A")
        asked = [{"uid": f"{kind}_{n}", "answer": answer, "question": f"Q{n}?\nA. x\nB. y"} for n in range(count)]
        rows.append({"question_type": named, "video_path": f"{kind}.mp4", "qa": asked})
        bare = {"options": ["x", "y"], "correct_answer": "x", "task_type": kind}
        videos.append({"video_name": kind, "questions": [bare | {"question": f"Q{n}?"} for n in range(count)]})
    if protocol == "motionbench":
        lines(root / f"MotionBench/{META}", rows)
    else:
        document(root / "video_perspective.json", videos)
    return read_source(str(root), "auto", ["Describe it."], protocol)


@pytest.mark.parametrize("protocol", SIZES)
def test_annotations_of_the_published_size_are_whole_and_one_item_less_is_not(tmp_path, protocol):
    """Made of the counts in the paper's supplement, Table 2."""
    refuse_other_counts([sized(tmp_path, protocol, SIZES[protocol])])
    less = SIZES[protocol]["CM"] - 1
    part = sized(tmp_path, protocol, SIZES[protocol] | {"CM": less})
    with pytest.raises(DataError, match=rf"as published \(CM: {less:,} of {less + 1:,}\)"):
        refuse_other_counts([part])
