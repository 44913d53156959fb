"""What is remembered and what is computed: one video more, an edited caption, damage, a killed process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from components.core.artifacts import AttentionMaps, PriorSet
from components.core.errors import DataError
from components.kubeflow.tree import ROOT
from components.runtime.declaration import declared
from components.synthetic.scenes import write_set
from tests.chain import SMALL, Chain
from tests.runner import load_manifest, run_step


@pytest.fixture(scope="module")
def all_videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "set"
    write_set(folder, preset="scenes", count=5, seed=3)
    return folder


def source_of(all_videos, folder, count):
    """The first `count` videos of the set, as one's own JSONL."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (all_videos / "MotionBenchCaption-train/train.jsonl").read_text().splitlines()[:count]
    rows = [json.loads(line) for line in lines]
    for row in rows:
        if not (folder / row["video_path"]).exists():
            shutil.copy2(all_videos / "MotionBenchCaption-train/videos" / row["video_path"], folder / row["video_path"])
    lines = [json.dumps({"video": row["video_path"], "response": row["motion_caption"]}) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def base(all_videos, tmp_path_factory):
    """Four videos, extracted once."""
    tmp = tmp_path_factory.mktemp("base")
    source = source_of(all_videos, tmp / "source", 4)
    chain = Chain(tmp, tmp / "store", source)
    priors = chain.priors()
    return tmp, source, chain, priors


@pytest.fixture
def copied(base, tmp_path):
    """A copy of the base's store and source that a test may damage."""
    tmp, source, _, _ = base
    shutil.copytree(tmp / "store", tmp_path / "store")
    return tmp_path, source


STEPS = ("dataset_import", "ddim_inversion", "attention_capture", "token_selection")


def test_everything_is_computed_once(base):
    _, _, chain, _ = base
    assert {name: chain.counts[name] for name in STEPS} == dict.fromkeys(STEPS, 4)


def test_unchanged_computes_nothing_and_gives_the_same_bytes(base, copied):
    tmp, source = copied
    again = Chain(tmp, tmp / "store", source)
    priors = again.priors()
    assert {name: again.counts[name] for name in STEPS} == dict.fromkeys(STEPS, 0)
    assert (priors / "manifest.json").read_bytes() == (base[3] / "manifest.json").read_bytes()


def test_sharding_changes_no_prior(base, copied):
    tmp, source = copied
    again = Chain(tmp, tmp / "store", source, shards=3)
    assert (again.priors() / "manifest.json").read_bytes() == (base[3] / "manifest.json").read_bytes()


@pytest.mark.parametrize("empty_scratch", [False, True])
def test_one_video_more_computes_one_video(base, copied, all_videos, empty_scratch):
    tmp, source = copied
    shutil.copytree(source, tmp / "source", copy_function=shutil.copy2)
    # the import goes by address: the same folder must grow
    grown = source_of(all_videos, source, 5)
    try:
        if empty_scratch:
            shutil.rmtree(tmp / "store" / "scratch")
        again = Chain(tmp, tmp / "store", grown)
        priors = load_manifest(again.priors(), PriorSet)
    finally:
        source_of(all_videos, source, 4)
    assert {name: again.counts[name] for name in STEPS} == dict.fromkeys(STEPS, 1)
    assert len(priors.lines) == 5


@pytest.mark.parametrize("empty_scratch", [False, True])
def test_an_edited_caption_changes_that_sample_and_no_other(base, copied, empty_scratch):
    """Without scratch, capture inverts the video again itself; the inversion's entry still counts as remembered."""
    tmp, source = copied
    if empty_scratch:
        shutil.rmtree(tmp / "store" / "scratch")
    rows = (source / "rows.jsonl").read_text()
    try:
        (source / "rows.jsonl").write_text(rows.replace('"response": "', '"response": "slowly ', 1))
        again = Chain(tmp, tmp / "store", source)
        again.priors()
    finally:
        (source / "rows.jsonl").write_text(rows)
    assert [again.counts[name] for name in STEPS] == [0, 0, 1, 1]


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_damage_stops_the_reader_and_the_named_rerun_heals(base, copied, damage):
    tmp, source = copied
    maps = load_manifest(base[2].outputs["attention_capture"][0]["maps"], AttentionMaps)
    ref = next(iter(maps.lines)).statistics
    file = tmp / "store" / ref.path
    before = file.read_bytes()
    shutil.rmtree(tmp / "store" / "indexes")  # where the task keeps its bytes as well
    if damage == "flip":
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    else:
        file.unlink()
    with pytest.raises(DataError) as caught:
        Chain(tmp, tmp / "store", source).priors()
    assert caught.value.exit_code == 3
    assert ref.path in str(caught.value)
    assert "rerun_attention_capture" in str(caught.value)
    healed = Chain(tmp, tmp / "store", source, rerun={"attention_capture": "1"})
    priors = healed.priors()
    assert healed.counts["attention_capture"] == 1
    assert file.read_bytes() == before
    assert (priors / "manifest.json").read_bytes() == (base[3] / "manifest.json").read_bytes()


def test_a_killed_extraction_goes_on_where_it_was(base, tmp_path):
    """SIGKILL in the middle of inversion: the second run computes what is missing and gives the same bytes."""
    _, source, _, uninterrupted = base
    store = tmp_path / "store"
    imported = run_step(declared("dataset_import"), tmp_path, store, shared={"source": str(source)}, form="training")
    words = "-m components.cli step ddim_inversion --set vdm=tiny-cogvideox --set num_steps=2 --set shard=0/1 --in"
    command = [sys.executable, *words.split(), f"videos={imported['videos']}", "--store", store.as_uri()]
    command += ["--out", str(tmp_path / "killed"), "--params", json.dumps(SMALL["ddim_inversion"])]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((store / "ddim_inversion").glob("*/entry.json")) and time.monotonic() < deadline:
        assert process.poll() is None, "the step ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list((store / "ddim_inversion").glob("*/entry.json")))
    assert 1 <= done < 4
    again = Chain(tmp_path, store, source)
    priors = again.priors()
    assert again.counts["ddim_inversion"] == 4 - done
    assert (priors / "manifest.json").read_bytes() == (uninterrupted / "manifest.json").read_bytes()


def test_token_ratio_touches_nothing_before_token_selection(copied):
    tmp, source = copied
    again = Chain(tmp, tmp / "store", source, token_ratio=0.25)
    again.priors()
    assert {name: again.counts[name] for name in STEPS} == {**dict.fromkeys(STEPS, 0), "token_selection": 4}


def test_wrong_kind_is_refused(base):
    _, _, chain, _ = base
    videos = chain.outputs["dataset_import"][0]["videos"]
    with pytest.raises(DataError, match="wrong artifact kind 'VideoDataset', wanted 'Trajectories'"):
        chain.task("attention_capture", {"trajectories": videos}, shard="0/1")


def test_a_missing_shard_is_refused(base):
    _, _, chain, _ = base
    with pytest.raises(DataError, match="not k/n, each once"):
        chain.task("head_selection", {"maps": [chain.outputs["attention_capture"][0]["maps"]]})
