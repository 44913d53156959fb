"""Benchmarks with images, still frames, parts of videos and zip files: from the published files to the scores."""

import re

import pytest

from components.benchmark_eval.step import STEP as EVALUATE
from components.core.artifacts import EvalResult, VideoDataset
from components.dataset_import.step import STEP as IMPORT
from tests.dataset_import.data import document
from tests.dataset_import.published import SEED, numbered, seed, seed2, videomme
from tests.models.vlm.cases import NAMES, QWEN
from tests.report.section import benchmark_section
from tests.runner import published, run_step
from tests.vlm_attention.made import VIEWING


def evaluated(tmp_path, protocol, vlm, **viewing):
    given, store = f"{protocol}={tmp_path / protocol}", tmp_path / "store"
    params, shared = {"processes": 1, "allow_subset": True}, {"benchmarks": [given]}
    imported = run_step(IMPORT, tmp_path, store, params, shared, form="benchmark", task="benchmark_import")
    shared, inputs = {"vlm": vlm, "benchmark": given}, {"videos": imported["videos"]}
    params = {"viewing": VIEWING | viewing, "max_new_tokens": 2}
    answered = run_step(EVALUATE, tmp_path, store, params, shared, inputs, form="untouched")
    videos = {line.video.id: line.video for line in published(imported, "videos", VideoDataset).lines}
    return videos, published(answered, "result", EvalResult)


@pytest.mark.parametrize("vlm", NAMES)
def test_seed_bench(vlm, tmp_path):
    questions = seed(tmp_path / "seed", videos=True)
    videos, result = evaluated(tmp_path, "seed", vlm)
    assert {line.sample.uid for line in result.lines} == {question["question_id"] for question in questions}
    counts = {score.name: score.n for score in result.scores}
    assert (counts["All"], counts["Image"], counts["Video"]) == (13, 9, 4)
    frames = {line.sample.uid: (line.frames, videos[line.video.id]) for line in result.lines}
    assert frames["101"][0] == [0]
    part, clip = frames["v1962"]
    assert clip.part.first == 20
    assert 0 <= min(part) < max(part) < clip.part.count  # frames of the part alone
    page = benchmark_section(tmp_path / "store", result)
    assert re.findall(r"<td>(All|Image|Video)</td>", page) == ["All", "Image", "Video"]
    assert "13 items" in page
    assert page.count("data:image/") >= 9 + 3 * 4  # one of an image, four of a clip; of 13 items one has no partner


@pytest.mark.parametrize("vlm", NAMES)
def test_each_still_frame_is_seen_once(vlm, tmp_path):
    questions = seed(tmp_path / "seed")
    document(tmp_path / "seed/SEED-Bench.json", {"questions": questions[9:], "question_type": numbered(SEED)})
    _, result = evaluated(tmp_path, "seed", vlm, num_frames=8, fps=1.0)
    assert [line.frames for line in result.lines] == [list(range(8))] * 3


def test_seed_bench_2_and_video_mme(tmp_path):
    seed2(tmp_path / "seed2")
    _, result = evaluated(tmp_path, "seed2", QWEN)
    counts = {score.name: score.n for score in result.scores}
    assert (counts["All"], counts["Image"], counts["Video"]) == (20, 16, 4)
    videomme(tmp_path / "videomme", size=(64, 64))
    _, result = evaluated(tmp_path, "videomme", QWEN)
    counts = {score.name: score.n for score in result.scores}
    page = benchmark_section(tmp_path / "store", result)
    assert "9 of 2,700 items" in page
    assert "data:image/" in page
    assert [counts[name] for name in ("Overall", "Short", "Medium", "Long")] == [9, 3, 3, 3]
