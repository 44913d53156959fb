"""The pipeline on a GPU: the same priors as on a CPU, and a whole local run with fine-tuning in bfloat16."""

import json

import numpy as np
import pytest

from components.core.artifacts import PriorSet
from components.kubeflow.tree import ROOT
from components.models.registry import SHIPPED
from components.models.video import load_vdm
from components.pages.samples import Stored
from components.store.entries import Store
from components.synthetic.scenes import draw, make_clip, write_set
from components.synthetic.vdm.vae import closed_form
from tests.command import python
from tests.runner import load_manifest

pytestmark = pytest.mark.gpu


def priors(folder):
    lines = load_manifest(folder / "prior_set" / "priors", PriorSet, folder / "store").lines
    stored = Stored(Store((folder / "store").as_uri()))
    return {line.video.id: stored.prior(line).mean(0) for line in lines}


def test_priors_are_those_of_a_cpu(tmp_path):
    """float32 on both: the code of the clip, five levels of inversion and reconstruction, capture."""
    clips = tmp_path / "clips"
    write_set(clips, "scenes", 3, seed=41)
    python("-m", "tests.gpu.extraction", clips, tmp_path / "gpu")
    python("-m", "tests.gpu.extraction", clips, tmp_path / "cpu", CUDA_VISIBLE_DEVICES="")
    ours, theirs = priors(tmp_path / "gpu"), priors(tmp_path / "cpu")
    assert len(ours) == 3
    for name, prior in theirs.items():
        print(f"largest difference {np.abs(ours[name] - prior).max() / prior.max():.1e} of the largest value")
        assert np.abs(ours[name] - prior).max() <= 2e-3 * prior.max()


def test_the_constructed_encoder_keeps_its_digits():
    """TensorFloat-32 would leave it three: the largest error is then near .1."""
    vdm = load_vdm(SHIPPED["scenes-cogvideox"].path, "float32", "cuda")
    frames = draw(make_clip("scenes", 0, 0, (48, 48), 17).scene, (48, 48))[0]
    found = np.abs(vdm.encode_video(frames)[0].cpu().numpy() - closed_form(frames)).max()
    print(f"largest |encoder − closed form| {found:.1e}")
    assert found < 1e-3


def test_a_whole_run(tmp_path):
    write_set(tmp_path / "scenes", "scenes", 8, seed=1)
    write_set(tmp_path / "bench", "bench", 12, seed=2)
    benchmark = json.dumps([f"motionbench={tmp_path / 'bench'}"])
    command = ["-m", "components.cli", "run", "motion_enhancer", "--out", tmp_path / "out", "--arguments"]
    settings = {"source": tmp_path / "scenes", "benchmarks": benchmark, "vlm": "tiny-qwen2.5-vl"}
    example = ROOT / "components" / "cli" / "smoke.json"
    print(python(*command, example, *(f"--set={key}={value}" for key, value in settings.items())).stdout)
    assert (tmp_path / "out" / "report.html").is_file()
    (log,) = (tmp_path / "out").glob("store/sft/*/log-*.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    aligned = [row["align"] for row in rows if "align" in row]
    assert aligned[-1] < aligned[0]
