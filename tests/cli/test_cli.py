"""The command line: its help, its options, how it is called wrongly, and how a run ends that was broken off."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from components.cli.options import PipelineOptions
from components.core.errors import ParameterError
from components.kubeflow.arguments import PIPELINES, pipeline, pipeline_defaults
from components.kubeflow.tree import ROOT
from components.synthetic.scenes import write_set
from tests.command import motion_enhancer

CLI = [sys.executable, "-m", "components.cli"]


def help_of(capsys, monkeypatch, *command):
    monkeypatch.setenv("COLUMNS", "200")
    assert motion_enhancer(*command, "--help") == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_commands_come_in_groups(capsys, monkeypatch):
    shown = help_of(capsys, monkeypatch)
    panels = re.findall(r"╭─ (.+?) ─", shown)
    assert panels[1:] == ["Make priors, tune a model", "Look", "Move and keep", "On a cluster"]
    blocks = dict(zip(panels, shown.split("╭─")[1:], strict=True))
    assert re.findall(r"│ (\w+) ", blocks["Make priors, tune a model"]) == ["synthesize", "plan", "run", "step"]
    assert re.findall(r"│ (\w+) ", blocks["Move and keep"]) == ["export", "import", "inspect", "store", "models"]


def test_help_of_run_lists_pipelines_and_their_parameters(capsys, monkeypatch):
    shown = help_of(capsys, monkeypatch, "run")
    for name in PIPELINES:
        assert f"  {name} " in shown
        for parameter, default in pipeline_defaults(pipeline(name)).items():
            if not parameter.startswith(("params_", "rerun_")):
                assert f"  {parameter} " in shown
                assert isinstance(default, list) or f"(default: {default})" in " ".join(shown.split())
    assert "params_<step>.FIELD" in shown
    assert "rerun_<task>" in shown


def test_an_unknown_pipeline_gets_the_three(capsys):
    assert motion_enhancer("run", "motion_prior") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown pipeline 'motion_prior'\n")
    assert f"remedy: use one of {', '.join(PIPELINES)}" in error


KNOWN = {"source": "./data", "benchmarks": ["motionbench=./benchmarks"], "shards": ["0/8"], "seed": 1, "vdm": "v"}
KNOWN |= {"store": "minio://b/p", "params_sft": {"lr": 1, "epochs": 2}}


def test_options_become_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text('{"seed": 2, "params_sft.lr": 3, "source": "other"}')
    given = PipelineOptions(
        source="clips",
        benchmark=["favor=b", "motionbench=minio://x/y"],
        vdm="models/v",
        shards=2,
        store="kept",
        arguments=tmp_path / "a.json",
        assignments=["params_sft.epochs=9", "seed=5"],
    )
    assert given.local_values(KNOWN) == {
        "source": str(tmp_path / "clips"),
        "benchmarks": [f"favor={tmp_path}/b", "motionbench=minio://x/y"],
        "vdm": str(tmp_path / "models/v"),
        "shards": ["0/2", "1/2"],
        "store": (tmp_path / "kept").as_uri(),
        "params_sft": {"lr": 3, "epochs": 9},
        "seed": 5,
    }
    assert given.values(KNOWN)["source"] == "clips"
    assert PipelineOptions(vdm="cogvideox-5b").local_values(KNOWN) == {
        "source": str(tmp_path / "data"),
        "benchmarks": [f"motionbench={tmp_path}/benchmarks"],
        "vdm": "cogvideox-5b",
    }


def test_an_option_that_the_pipeline_has_not():
    with pytest.raises(ParameterError, match="no parameter 'priors'") as caught:
        PipelineOptions(priors="sha256:0").values(KNOWN)
    assert (caught.value.source, "source, benchmarks" in caught.value.remedy) == ("--priors", True)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nope",), "no step 'nope'"),
        (("ddim_inversion", "--params", "{bad"), "no JSON object: {bad"),
        (("ddim_inversion", "--params", "[1]"), "no JSON object: [1]"),
        (("ddim_inversion", "--in", "clips=/tmp"), "no input 'clips=/tmp'"),
        (("ddim_inversion", "--in", "videos"), "NAME one of videos"),
        (("ddim_inversion", "--set", "vdm"), "cannot set 'vdm'"),
        (("ddim_inversion", "--set", "head_ratio=1"), "NAME one of num_steps, params_ddim_inversion, shard, vdm"),
        (("ddim_inversion", "--set", "params_sft.lr_llm=1"), "NAME one of num_steps, params_ddim_inversion"),
    ],
)
def test_a_step_called_wrongly(tmp_path, capsys, arguments, problem):
    code = motion_enhancer("step", *arguments, "--store", tmp_path.as_uri(), "--out", tmp_path / "out")
    assert (code, problem in capsys.readouterr().err) == (2, True)


def test_a_step_without_its_input(tmp_path, caplog):
    given = ("--set", "vdm=tiny-cogvideox", "--set", "num_steps=2", "--set", "shard=0/1")
    out = ("--store", tmp_path.as_uri(), "--out", tmp_path / "out")
    assert motion_enhancer("step", "ddim_inversion", *given, *out) == 2
    assert "no input 'videos'" in caplog.text


def test_a_step_takes_its_parameters_by_set_and_as_json(tmp_path):
    """`--set params_<step>.FIELD` changes one field of what `--params` or the defaults give."""
    write_set(tmp_path / "scenes", preset="scenes", count=1, seed=5)
    given = ("--store", (tmp_path / "store").as_uri(), "--out", tmp_path / "out")
    given += ("--set", f"source={tmp_path / 'scenes'}", "--set", "source_digest=-", "--params", '{"processes": 2}')
    field = ("--set", "params_dataset_import.layout=motionbench_caption")
    assert motion_enhancer("step", "dataset_import", *given, *field) == 0
    manifest = json.loads((tmp_path / "out" / "videos" / "manifest.json").read_text())
    assert manifest["provenance"]["dataset_import"]["params"]["layout"] == "motionbench_caption"


def test_control_c_ends_a_run_with_130(tmp_path):
    """Also while the fork server imports what tasks need."""
    write_set(tmp_path / "scenes", preset="scenes", count=1, seed=5)
    command = [
        *CLI,
        "run",
        "motion_priors",
        "--out",
        tmp_path,
        "--source",
        tmp_path / "scenes",
        "--vdm",
        "tiny-cogvideox",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GIT_DIR": "/nonexistent"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    before = "".join(iter(process.stderr.readline, "  ▸ dataset_import\n"))
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, after = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in before + after
