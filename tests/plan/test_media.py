"""What the plan says of a source's images and zip files, before an import and after it."""

import shutil

import pytest

from components.dataset_import.clips import NO_MOTION
from components.dataset_import.step import STEP as IMPORT
from components.plan import step as plan
from tests.dataset_import.data import document, lines
from tests.dataset_import.published import SEED, numbered, saved, seed, videomme
from tests.pages.reading import rows
from tests.plan.test_step import counts, planned, settings
from tests.runner import run_step


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Two videos in zip files, a still picture, and a video that is nowhere."""
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    root = tmp_path / "own"
    videomme(root)
    (root / "videomme/test-00000-of-00001.parquet").unlink()
    saved(root / "still.png", 3)
    names = ["data/fFjv93ACG1o.mp4", "data/fFjv93ACG2o.mp4", "still.png", "data/none.mp4"]
    lines(root / "data.jsonl", [{"id": name, "video": name, "response": "It goes."} for name in names])
    return root


def unusable(printed):
    """The reasons by name, as the page lists them."""
    found = [line for line in printed.splitlines() if line.startswith("* `")]
    return {line.split("`")[1]: line.split(": ", 1)[1] for line in found}


def test_members_are_probed_and_images_left_out_before_and_after_the_import(source, tmp_path, capsys, monkeypatch):
    store = tmp_path / "store"
    before = planned(capsys, *settings(source, store))
    assert counts(before)["dataset_import"] == ("0", "2")
    assert unusable(before) == {"data/none.mp4": "not in the source", "still.png": NO_MOTION}
    looked, fetched = [], plan.fetched
    monkeypatch.setattr(plan, "fetched", lambda *args: looked.append(args[1]) or fetched(*args))
    assert planned(capsys, *settings(source, store)) == before
    assert looked == ["still.png"]  # headers are remembered, what cannot be used is not
    run_step(IMPORT, tmp_path, store, {"processes": 1, "max_failed": 0.5}, {"source": str(source)}, form="training")
    after = planned(capsys, *settings(source, store))
    assert counts(after)["dataset_import"] == ("2", "0")
    assert unusable(after) == unusable(before)


def test_still_frames_are_counted_and_parts_are_those_of_their_file(tmp_path, capsys, monkeypatch):
    root = tmp_path / "seed"
    questions = seed(root, videos=True)
    document(root / "SEED-Bench.json", {"questions": questions[:1] + questions[9:], "question_type": numbered(SEED)})
    printed = planned(capsys, *settings(root, tmp_path / "store"))
    assert unusable(printed) == {"SEED-Bench-image/1454426_2591111": NO_MOTION}
    assert rows(printed)["dataset_import"][:2] == ["0", "4"]  # a video, and three parts of two others
    shutil.rmtree(root / "SSV2")
    looked, fetched = [], plan.fetched
    monkeypatch.setattr(plan, "fetched", lambda *args: looked.append(args[1]) or fetched(*args))
    printed = planned(capsys, *settings(root, tmp_path / "store"))
    name = "v1_video/task10/ssv2_8_frame/v1738 (8 frames)"
    assert unusable(printed)[name] == "8 frames by its header, 9 are needed"
    assert looked == ["SEED-Bench-image/1454426_2591111"]  # frames are not unpacked for that
