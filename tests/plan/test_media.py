"""What the plan says of a source's images and zip files, before an import and after it."""

import pytest

from components.dataset_import.clips import NO_MOTION
from components.dataset_import.step import STEP as IMPORT
from components.plan import extraction
from tests.dataset_import.data import lines
from tests.dataset_import.published import saved, videomme
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
    assert unusable(before) == {
        "data/none.mp4": "not in the source, named by data/none.mp4 (data.jsonl:4)",
        "still.png": NO_MOTION,
    }
    looked, fetched = [], extraction.fetched
    monkeypatch.setattr(extraction, "fetched", lambda *args: looked.append(args[1]) or fetched(*args))
    assert planned(capsys, *settings(source, store)) == before
    assert looked == ["still.png"]  # headers are remembered, what cannot be used is not
    run_step(IMPORT, tmp_path, store, {"processes": 1, "max_failed": 0.5}, {"source": str(source)}, form="training")
    after = planned(capsys, *settings(source, store))
    assert counts(after)["dataset_import"] == ("2", "0")
    assert unusable(after) == unusable(before)
