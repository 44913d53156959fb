"""One task from the command line: what it takes, and that of variants it does what the pipeline's own task does."""

import json

import pytest
from google.protobuf import json_format

from components.cli.one_step import settable
from components.kubeflow.arguments import PIPELINES, pipeline
from components.runtime.declaration import declared
from components.runtime.variants import read_index
from components.synthetic.scenes import write_set
from tests.command import motion_enhancer
from tests.runner import metrics, run_step

VARIANTS = [{"name": "all"}, {"name": "one clip", "source": {"samples": 1}}]


def step(name, folder, out, *given):
    """Run a step on the store in `folder`; the exit code."""
    return motion_enhancer("step", name, "--store", (folder / "store").as_uri(), "--out", out, *given)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("step") / "scenes"
    write_set(folder, preset="scenes", count=2, seed=5)
    return folder


def test_a_step_takes_its_parameters_by_set_and_as_json(tmp_path, scenes):
    """`--set params_<step>.FIELD` changes one field of what `--params` or the defaults give."""
    given = ("--set", f"source={scenes}", "--set", "source_digest=-", "--params", '{"processes": 2}')
    given += ("--set", "params_dataset_import.layout=motionbench_caption", "--task", "clips")
    assert step("dataset_import", tmp_path, tmp_path / "out", *given) == 0
    manifest = json.loads((tmp_path / "out" / "videos" / "manifest.json").read_text())
    assert manifest["provenance"]["clips"]["params"]["layout"] == "motionbench_caption"


def test_a_task_of_variants_is_the_pipelines_own(tmp_path, scenes):
    """The same manifests byte by byte; a second call computes nothing."""
    given = ("--set", f"source={scenes}", "--set", "source_digest=-", "--set", f"variants={json.dumps(VARIANTS)}")
    outs = [tmp_path / "first", tmp_path / "second"]
    assert step("dataset_import", tmp_path, outs[0], *given) == 0
    entries = {file: file.stat().st_mtime_ns for file in (tmp_path / "store").rglob("entry.json")}
    assert step("dataset_import", tmp_path, outs[1], *given) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "store").rglob("entry.json")} == entries
    assert entries
    assert metrics({"metrics": outs[1] / "metrics"}) == {"cases": 2, "units": 3, "failed": 0, "share_remembered": 1}
    shared = {"source": str(scenes), "source_digest": "-", "variants": VARIANTS}
    ours = run_step(declared("dataset_import"), tmp_path, tmp_path / "other", shared=shared, form="training")
    assert [case.variant for case, _ in read_index(ours["videos"])] == ["all", "one clip"]
    wanted = _files(ours["videos"])
    assert len(wanted) == 3
    assert [_files(out / "videos") for out in outs] == [wanted] * 2


def _files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_parameter_of_a_pipelines_task_can_be_given(name):
    spec = json_format.MessageToDict(pipeline(name).pipeline_spec)
    commands = {key: item["container"]["command"] for key, item in spec["deploymentSpec"]["executors"].items()}
    tasks = [item for item in spec["components"].values() if "executorLabel" in item]
    assert len(tasks) == len(commands)
    for task in tasks:
        found = declared(commands[task["executorLabel"]][-1])
        given = {*task["inputDefinitions"]["parameters"]} - {"store", "rerun", "params"}
        others = {key for key in given if key.startswith("params_")}  # of all steps, which `plan` takes
        assert given - others <= settable(found), found.name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("variants=controls", "variants: Input should be a valid list (got 'controls') where: --set"),
        ('variants=[{"name":"a","num_step":1}]', "variant 'a': this pipeline has no parameter 'num_step'"),
        ('variants=[{"name":"a","rerun_sft":"1"}]', "variant 'a': this pipeline has no parameter 'rerun_sft'"),
        ('variants=["table3"]', "no preset 'table3'"),
        ("seeds=[]", "seeds: there is no such parameter"),
    ],
)
def test_variants_that_are_none(tmp_path, capsys, caplog, given, said):
    assert step("sft", tmp_path, tmp_path / "out", "--set", given) == 2
    assert said in " ".join((capsys.readouterr().err + caplog.text).split())


def test_what_compares_variants_reads_them_from_its_inputs(tmp_path, capsys):
    assert step("comparison", tmp_path, tmp_path / "out", "--set", "variants=[]") == 2
    assert "cannot set 'variants'" in capsys.readouterr().err


def test_a_preset_counts_unless_variants_are_set(tmp_path, capsys, caplog):
    assert step("dataset_import", tmp_path, tmp_path / "out", "--preset", "nope") == 2
    assert "no preset 'nope'" in capsys.readouterr().err
    both = ("--preset", "nope", "--set", 'variants=["controls"]')
    assert step("dataset_import", tmp_path, tmp_path / "out", *both) == 2
    assert "no source" in capsys.readouterr().err + caplog.text
