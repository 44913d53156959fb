"""The compiled pipeline under KFP's local orchestrator: what executes the first time, unchanged, and after a change."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.artifacts import PriorSet, TunedModel
from components.core.records import sha256
from components.kubeflow.tree import ROOT
from components.pages.markdown import WIDTH
from components.store.entries import Store
from components.store.transfer import import_folder, references
from components.synthetic.scenes import write_set
from tests.command import python
from tests.pages.reading import emphasis, fences, tables
from tests.runner import load_manifest
from tests.s3_server import s3_server

SMOKE = ROOT / "components/cli/smoke.json"


def run(pipeline, out, *settings, expect=0, command="run"):
    """One pipeline run in a process of its own (kfp.local wants that); returns the executed tasks and the output."""
    words = ["--arguments", SMOKE] if pipeline == "motion_enhancer" else []
    words += [word for setting in settings for word in ("--set", setting)]
    answer = python("-m", "components.cli", command, pipeline, "--out", out, *words, code=expect)
    return sorted(re.findall(r"▸ (\w+)", answer.stderr)), answer.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("run")
    write_set(tmp / "scenes", preset="scenes", count=4, seed=5)
    write_set(tmp / "bench", preset="bench", count=6, seed=6)
    settings = [
        f"source={tmp / 'scenes'}",
        f'benchmarks=["motionbench={tmp / "bench"}"]',
        "vdm=tiny-cogvideox",
        "vlm=tiny-qwen2.5-vl",
        "num_steps=2",
        "params_sft.max_steps=2",
        "params_attention_capture.pictures=2",
    ]
    first = run("motion_enhancer", tmp / "out", *settings)
    return tmp, settings, first


def head(out, task, name):
    """The file of an artifact's head, of the oldest run in `out`."""
    return sorted(out.glob(f"artifacts/*/{task.replace('_', '-')}/{name}/manifest.json"))[0]


def artifact(out, task, name, kind):
    """The manifest of the oldest run in `out`, whose store is a folder there, and its folder."""
    file = head(out, task, name)
    (stored,) = out.rglob(f"manifests/{sha256(file.read_bytes())}.json")
    return load_manifest(file.parent, kind, stored.parents[1]), file.parent


@pytest.fixture(scope="module")
def exported(base):
    """The base run's prior set as a folder for elsewhere."""
    tmp = base[0]
    python("-m", "components.cli", "export", tmp / "out", "priors", tmp / "priors")
    made, _ = artifact(tmp / "out", "prior_set", "priors", PriorSet)
    assert (tmp / "priors" / "manifest.json").read_bytes() == made.to_bytes()
    return tmp / "priors"


def test_the_whole_pipeline_runs(base):
    tmp, _, (tasks, printed) = base
    assert len(tasks) == 19
    assert (tmp / "out" / "report.html").stat().st_size > 10_000
    assert f"\nreport  {tmp / 'out' / 'report.html'}\n" in printed
    assert printed.rstrip().endswith(f"motion-enhancer export {tmp / 'out'} model model")


def test_every_markdown_page_reads_well_in_kfps_viewer(base):
    """Its style has no cell padding, it takes `_` as emphasis, and it is 700 pixels wide."""
    pages = {}
    for answer in (base[0] / "out").glob("artifacts/*/**/executor_output.json"):
        for name, output in json.loads(answer.read_text())["artifacts"].items():
            (item,) = output["artifacts"]
            if item["type"]["schemaTitle"] == "system.Markdown":
                pages[f"{answer.parent.name}/{name}"] = Path(item["uri"]).read_text()
    assert set(pages) == {
        *("plan/plan", "dataset-import/summary", "benchmark-import/summary", "prior-set/card", "report/summary"),
        *("baseline-eval/table", "tuned-eval/table", "leakage-check/summary"),
    }
    for name, page in pages.items():
        assert not emphasis(page), name
        assert not re.search(r"\de[+-]\d|^\|", page, re.MULTILINE), name
        assert all(len(line) <= WIDTH for lines in fences(page) for line in lines), name
        assert tables(page), name


def test_token_ratio_executes_token_selection_and_what_follows_and_unchanged_executes_plan_alone(base):
    """The report is each time this run's, also where it comes back from the cache after another."""
    tmp, settings, (_, printed) = base
    page = tmp / "out" / "report.html"
    first = page.read_bytes()
    tasks, _ = run("motion_enhancer", tmp / "out", *settings, "token_ratio=0.25")
    wanted = ["leakage_check", "plan", "prior_set", "report", "sft", "tuned_attention", "tuned_eval"]
    assert tasks == sorted([*wanted, *2 * ["token_selection", "vlm_attention"]])
    assert page.read_bytes() != first
    tasks, again = run("motion_enhancer", tmp / "out", *settings)
    assert (tasks, page.read_bytes() == first) == (["plan"], True)
    assert again[again.index("\npriors ") :] == printed[printed.index("\npriors ") :]


def test_a_misspelt_key_is_found_by_plan(base):
    tmp, settings, _ = base
    tasks, printed = run("motion_enhancer", tmp / "out", *settings, "params_sft.lerning_rate=1", expect=2)
    assert tasks == ["plan"]
    assert "lerning_rate" in printed


def test_exports_open_elsewhere_and_fine_tune_gives_the_same_model(base, exported):
    tmp, settings, _ = base
    model, _ = artifact(tmp / "out", "sft", "model", TunedModel)
    python("-m", "components.cli", "export", tmp / "out", "model", tmp / "model")
    code = (
        "import sys; sys.modules['components'] = None\n"  # importing it would fail
        "from transformers import AutoModelForImageTextToText, AutoTokenizer\n"
        "model = AutoModelForImageTextToText.from_pretrained(sys.argv[1]); AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(model.config.model_type)"
    )
    command = [sys.executable, "-I", "-c", code, str(tmp / "model")]
    opened = subprocess.run(command, cwd=tmp, capture_output=True, text=True, check=True)
    assert opened.stdout.split() == ["qwen2_5_vl"]
    moved = Store((tmp / "moved").as_uri())
    assert import_folder(tmp / "model", moved) == model.digest
    for ref in references(model):
        moved.read(ref)  # verifies size and sha256
    smoke = json.loads(SMOKE.read_text())
    of = ("params_sft", "params_dataset_import")
    kept = [f"{name}={json.dumps(value)}" for name, value in smoke.items() if name.startswith(of)]
    kept += [item for item in settings if item.startswith(("benchmarks", "vlm", "params_sft"))]
    run("fine_tune", tmp / "tune", f"priors={exported}", 'shards=["0/2","1/2"]', *kept)
    tuned, _ = artifact(tmp / "tune", "sft", "model", TunedModel)
    assert [ref.sha256 for ref in tuned.files] == [ref.sha256 for ref in model.files]


def test_read_priors(exported):
    from components.prior_set.reading import read_priors

    found = list(read_priors(exported))
    assert len(found) == 4
    for prior in found:
        assert prior.map_TFHW.shape == (sum(piece.selected for piece in prior.pieces), *prior.grid.shape)
        assert str(prior.map_TFHW.dtype) == "torch.float32"
        assert prior.video.is_file()


def test_an_s3_store_gives_the_same_manifests(base):
    tmp, settings, _ = base
    with s3_server("motion"):
        tasks, _ = run("motion_enhancer", tmp / "s3", *settings, "store=minio://motion/store")
    assert len(tasks) == 19
    for what in (("prior_set", "priors"), ("sft", "model"), ("report", "report")):
        assert head(tmp / "s3", *what).read_bytes() == head(tmp / "out", *what).read_bytes()


def test_a_changed_video_file_is_noticed(base):
    """Last, as it changes the source: one clip's file gets other bytes (which decode to the same frames)."""
    tmp, settings, _ = base
    video = sorted((tmp / "scenes").glob("MotionBenchCaption-train/videos/*.mp4"))[0]
    video.write_bytes(video.read_bytes() + bytes(8))
    tasks, _ = run("motion_enhancer", tmp / "out", *settings)
    assert {"plan", "dataset_import", "ddim_inversion", "attention_capture"} <= set(tasks)
    assert "baseline_eval" not in tasks
