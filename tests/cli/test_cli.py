"""The command line: its help, its options, how it is called wrongly, and how a run ends that was broken off."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from components.cli.options import PipelineOptions
from components.cli.run_folder import write_record
from components.core.errors import ParameterError
from components.kubeflow.arguments import PIPELINES, pipeline, pipeline_defaults
from components.kubeflow.tree import ROOT, run_store
from components.synthetic.scenes import write_set
from tests.command import motion_enhancer


def test_help_of_run_lists_pipelines_and_their_parameters(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert motion_enhancer("run", "--help") == 0
    shown = capsys.readouterr().out
    for name in PIPELINES:
        assert f"  {name} " in shown
        for parameter, default in pipeline_defaults(pipeline(name)).items():
            if not parameter.startswith(("params_", "rerun_")):
                assert f"  {parameter} " in shown
                assert isinstance(default, list) or f"(default:{default})" in "".join(shown.split())  # it breaks at "-"
    assert all(pattern in shown for pattern in ("params_<step>.FIELD", "rerun_<task>"))


KNOWN = {"source": "./data", "benchmarks": ["motionbench=./benchmarks"], "shards": ["0/8"], "seed": 1, "vdm": "v"}
KNOWN |= {"store": "minio://b/p", "params_sft": {"lr": 1, "epochs": 2}}


def test_options_become_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (file := tmp_path / "a.json").write_text('{"seed": 2, "params_sft.lr": 3, "source": "other"}')
    lists = {"benchmark": ["favor=b", "motionbench=minio://x/y"], "assignments": ["params_sft.epochs=9", "seed=5"]}
    given = PipelineOptions(source=["clips"], vdm="models/v", shards=2, store="kept", arguments=file, **lists)
    kept = (tmp_path / "kept").as_uri()
    expected = {
        "source": str(tmp_path / "clips"),
        "benchmarks": [f"favor={tmp_path}/b", "motionbench=minio://x/y"],
        "vdm": str(tmp_path / "models/v"),
        "shards": ["0/2", "1/2"],
        "store": run_store(kept),
        "params_sft": {"lr": 3, "epochs": 9},
        "seed": 5,
    }
    assert given.local_values(KNOWN, tmp_path / "out") == (kept, expected)
    assert given.values(KNOWN)["source"] == "clips"
    store, values = PipelineOptions(vdm="cogvideox-5b").local_values(KNOWN, tmp_path / "out")
    folders = {"source": f"{tmp_path}/data", "benchmarks": [f"motionbench={tmp_path}/benchmarks"]}
    assert values == {**folders, "vdm": "cogvideox-5b", "store": run_store(store)}
    assert store == (tmp_path / "out/store").as_uri()
    write_record(tmp_path / "out", "minio://bucket/store", {})
    assert PipelineOptions().local_values(KNOWN, tmp_path / "out")[0] == "minio://bucket/store"


@pytest.mark.parametrize("given", [{"vdm": "tiny-cogvideox1.5"}, {"assignments": ["vdm=tiny-cogvideox1.5"]}], ids=str)
def test_native_size_is_the_video_models_own(given):
    values = PipelineOptions(native_size=True, **given).values(pipeline_defaults(pipeline("motion_priors")))
    assert [values["params_ddim_inversion"][name] for name in ("num_frames", "height", "width")] == [17, 64, 64]


def test_variants_by_preset_and_with_absolute_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = pipeline_defaults(pipeline("ablations"))
    given = PipelineOptions(preset=["controls"], trial_shards=3)
    assert given.values(known) == {"variants": ["controls"], "trial_shards": ["0/3", "1/3", "2/3"]}
    variants = [{"name": "a", "vlm": "./mine", "source": "clips"}, {"name": "b", "source": {"samples": 2}}, "controls"]
    _, values = PipelineOptions(assignments=[f"variants={json.dumps(variants)}"]).local_values(known, tmp_path / "out")
    first = {"name": "a", "vlm": f"{tmp_path}/mine", "source": f"{tmp_path}/clips"}
    assert values["variants"] == [first, *variants[1:]]


@pytest.mark.parametrize(
    ("option", "value"),
    [("priors", ["sha256:0"]), ("native_size", True), ("preset", ["controls"]), ("trial_shards", 2)],
)
def test_an_option_that_the_pipeline_has_not(option, value):
    with pytest.raises(ParameterError, match="this pipeline") as caught:
        PipelineOptions(**{option: value}).values(KNOWN)
    assert caught.value.source == f"--{option.replace('_', '-')}"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("run motion_prior", f"unknown pipeline 'motion_prior' .* use one of {', '.join(PIPELINES)}"),
        ("step nope", "no step 'nope'"),
        ("step ddim_inversion --params {bad", "no JSON object: {bad"),
        ("step ddim_inversion --params [1]", r"no JSON object: \[1\]"),
        ("step ddim_inversion --in clips=/tmp", "no input 'clips=/tmp'"),
        ("step ddim_inversion --in videos", "NAME one of videos"),
        ("step ddim_inversion --set vdm", "cannot set 'vdm'"),
        (
            "step ddim_inversion --set head_ratio=1",
            "num_steps, params_ddim_inversion, shard, store_patience, variants, vdm",
        ),
        ("step ddim_inversion --set params_sft.lr_llm=1", "NAME one of num_steps, params_ddim_inversion"),
        ("step ddim_inversion --set vdm=tiny-cogvideox --set num_steps=2 --set shard=0/1", "no input 'videos'"),
    ],
)
def test_called_wrongly(tmp_path, capsys, caplog, command, problem):
    assert motion_enhancer(*command.split(), "--store", tmp_path.as_uri(), "--out", tmp_path / "out") == 2
    assert re.search(problem, " ".join((capsys.readouterr().err + caplog.text).split()))


def test_control_c_ends_a_run_with_130(tmp_path):
    """Also while the fork server imports what tasks need."""
    write_set(tmp_path / "scenes", preset="scenes", count=1, seed=5)
    words = f"run motion_priors --out {tmp_path} --source {tmp_path / 'scenes'} --vdm tiny-cogvideox".split()
    command = [sys.executable, "-m", "components.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GIT_DIR": "/nonexistent"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # as from a terminal: what runs in a shell's background ignores the signal, and so do its children
    heeded = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=heeded, **pipes)
    before = "".join(iter(process.stderr.readline, "  ▸ dataset_import\n"))
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, after = process.communicate(timeout=60)
    assert process.returncode == 130, before + after
    assert "Traceback" not in before + after
