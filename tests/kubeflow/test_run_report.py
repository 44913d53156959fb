"""`fetch`: the page of a run out of a store that runs share, which is found by the run's parameters."""

import errno
import json
import re
from pathlib import Path

import pytest
from google.protobuf import json_format

from components.core.artifacts import PriorSet, Report
from components.core.records import ModelId, StepRecord, sha256
from components.kubeflow.arguments import pipeline, pipeline_defaults
from components.runtime.variants import Case, changed, parse_variants, slug
from components.store.entries import WorkFolder
from tests.command import motion_enhancer
from tests.comparison.made import answered
from tests.comparison.world import World
from tests.kubeflow.executing_kfp import RECORDED

PAGE = b"<html>the report of a run</html>"


def fetch(server, run, out, *more):
    return motion_enhancer("fetch", run, "-o", out, *more, "--host", server.url)


def publish(store, name="report", **others):
    """A report with the parameters of the recorded run, some of them changed."""
    values = RECORDED["rerun_sft"]["runtime_config"]["parameters"] | others
    folder = WorkFolder(store, "report", "1", sha256(name.encode())[:32])
    folder.put("page", "html", PAGE)
    entry = folder.finish("report", {"priors": "p" * 64, "model": "m" * 64, "bench": [1]}, {})
    captured = {name: values["params_attention_capture"][name] for name in ("norm", "rows", "memory")}
    vdm = ModelId(name=Path(values["vdm"]).name, digest="d" * 64)
    scalars = {"num_steps": values["num_steps"]}
    provenance = {
        "attention_capture": StepRecord(version="1", models={"vdm": vdm}, params=captured, scalars=scalars),
        "prior_set": StepRecord(version="1", models={}, params={}, scalars={}),
    }
    return store.publish(Report(kind="Report", provenance=provenance, page=entry.ref("page", "report")))


def test_fetch_brings_page_and_digests(runs, store, tmp_path, capsys):
    digest = publish(store)
    publish(store, "of other steps", num_steps=50)
    publish(store, "of another model", vdm="cogvideox-5b")
    publish(store, "of other rows", params_attention_capture={"norm": "own", "rows": 1, "memory": True})
    out = tmp_path / "out"
    assert fetch(runs, "rerun_sft", out) == 0
    assert capsys.readouterr().out.split() == [str(out / name) for name in ("report.html", "manifests.json")]
    assert (out / "report.html").read_bytes() == PAGE
    found = json.loads((out / "manifests.json").read_text())
    assert (found["report"], found["priors"], found["model"]) == (digest, "p" * 64, "m" * 64)


def test_fetch_of_a_run_that_was_started_in_the_ui(of_the_ui, store, tmp_path):
    publish(store)
    assert fetch(of_the_ui, "rerun_sft", tmp_path / "out") == 0


def test_fetch_asks_where_several_reports_fit(runs, store, tmp_path, capsys):
    digests = [publish(store), publish(store, "of other videos")]
    assert fetch(runs, "rerun_sft", tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert all(f"sha256:{digest}" in printed for digest in digests)
    assert not (tmp_path / "out").exists()
    assert fetch(runs, "rerun_sft", tmp_path / "out", "--report", f"sha256:{digests[1]}") == 0


def test_fetch_without_a_report_and_of_a_run_that_is_not_over(runs, store, tmp_path, capsys):
    digest = publish(store, num_steps=50)
    assert fetch(runs, "rerun_sft", tmp_path / "out") == 3
    printed = capsys.readouterr().err
    assert "no report with this run's parameters" in printed
    assert f"name it with --report:\n    sha256:{digest}  20" in printed
    runs.answer.runs["first"]["state"] = "RUNNING"
    assert fetch(runs, "first", tmp_path / "out") == 3
    assert "RUNNING" in capsys.readouterr().err


def test_fetch_asks_for_the_keys_before_it_writes(runs, tmp_path, capsys, monkeypatch):
    runs.answer.runs["rerun_sft"]["runtime_config"]["parameters"]["store"] = "minio://bucket/store"
    for name in ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    for more in ((), ("--report", f"sha256:{'0' * 64}")):
        assert fetch(runs, "rerun_sft", tmp_path / "out", *more) == 2
        assert "no S3_ENDPOINT" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))


def test_fetch_into_a_folder_that_is_there_leaves_what_else_is_in_it(runs, store, tmp_path):
    publish(store)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "out" / "report.html").write_text("old")
    for _ in range(2):
        assert fetch(runs, "rerun_sft", tmp_path / "out") == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"notes.txt", "report.html", "manifests.json"}
    assert (tmp_path / "out" / "report.html").read_bytes() == PAGE


def test_fetch_that_cannot_write_all_leaves_nothing(runs, store, tmp_path, capsys, monkeypatch):
    publish(store)
    write, full = Path.write_bytes, OSError(errno.ENOSPC, "No space left on device")

    def some(path, data):
        if path.name == "manifests.json":
            raise full
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", some)
    assert fetch(runs, "rerun_sft", tmp_path / "out") == 75
    assert "no space left" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".fetch-*"))


def test_fetch_of_a_damaged_report_writes_nothing(runs, store, tmp_path, capsys):
    page = store.manifest(publish(store), Report).page
    store.backend.put(page.path, PAGE[:-1] + b"?")
    assert fetch(runs, "rerun_sft", tmp_path / "out") == 3
    assert "rerun_report" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Comparisons ----------------------------------------------------------------------------------------------------------

VARIANTS = [{"name": "plain", "align_weight": 0.0}, {"name": "10 steps", "num_steps": 10.0}]
ITEMS = [(1, 1, "Motion Recognition"), (2, 2, "Motion Recognition")]


@pytest.fixture
def ablations(runs, store, tmp_path):
    """Add a finished run of `ablations` with these parameters; return them all, with the run's id."""
    made = pipeline("ablations")
    spec, known = json_format.MessageToDict(made.pipeline_spec), pipeline_defaults(made)

    def add(run, **given):
        # as many pictures as the report of the recorded runs has: that parameter tells them apart no more
        given = {"variants": VARIANTS, "seeds": [1.0, 2.0], "vlm": "/models/v", "vdm": "/models/d", **given}
        given |= {"store": store.uri, "params_comparison": {"pictures": 8}}
        config = {"parameters": given}
        answer = {"run_id": run, "state": "SUCCEEDED", "pipeline_spec": {"pipeline_spec": spec}}
        runs.answer.runs[run] = {**answer, "runtime_config": config, "created_at": "2026-11-30T12:00:00Z"}
        return {**known, **given, "run": run}

    return add


def compared(store, folder, values, source="clips"):
    """Make the comparison of a run with the step itself, of made-up results that record what the run was given."""
    found = World(folder, store, {"priors": [[]], "untouched": [[]], "tuned": [[]]})
    for one in parse_variants(values["variants"]):
        own = changed(values, one.changes)
        vdm, vlm = ({role: ModelId(name=Path(own[role]).name, digest="d" * 64)} for role in ("vdm", "vlm"))
        seen = {
            "dataset_import": StepRecord(version=source, models={}, params={}, scalars={}),
            "attention_capture": StepRecord(
                version="1", models=vdm, params={}, scalars={"num_steps": own["num_steps"], "seed": own["seed"]}
            ),
        }
        asked = {"baseline_eval": StepRecord(version="1", models=vlm, params={}, scalars={})}
        fields = {"lines": [], "heads": [], "saturation": {}, "schema_version": "2"}
        prior = PriorSet(kind="PriorSet", provenance=seen, **fields)
        found.cases["priors"][0].append((_case(one), prior))
        found.cases["untouched"][0].append((_case(one, None, "motionbench"), _result(asked)))
        for seed in map(int, values["seeds"]):
            scalars = {"align_weight": own["align_weight"], "seed": seed}
            params = {"lr_llm": own["params_sft"]["lr_llm"]}
            trained = seen | {"sft": StepRecord(version="1", models=vlm, params=params, scalars=scalars)}
            found.cases["tuned"][0].append((_case(one, seed, "motionbench"), _result(trained)))
    outputs = found.compare(folder, values["baseline"], pictures=8)
    return found.page(outputs), sha256((outputs["report"] / "manifest.json").read_bytes())


def _case(one, seed=None, benchmark=None):
    folder = "/".join(str(part) for part in (slug(one.name), seed, benchmark) if part)
    return Case(folder=folder, variant=one.name, changes=one.changes, seed=seed, benchmark=benchmark)


def _result(provenance):
    return answered(ITEMS, (True, False)).model_copy(update={"provenance": provenance})


def test_a_report_and_a_comparison_in_one_store_are_each_its_runs_own(runs, store, ablations, tmp_path):
    publish(store)
    page, digest = compared(store, tmp_path / "made", ablations("varied"))
    assert fetch(runs, "rerun_sft", tmp_path / "report") == 0
    assert (tmp_path / "report" / "report.html").read_bytes() == PAGE
    assert fetch(runs, "varied", tmp_path / "comparison") == 0
    assert (tmp_path / "comparison" / "report.html").read_text() == page
    found = json.loads((tmp_path / "comparison" / "manifests.json").read_text())
    assert found.pop("report") == digest
    kinds = ("prior set: {}", "motionbench, untouched: {}", "motionbench: {}, seed 1", "motionbench: {}, seed 2")
    names = [kind.format(name) for kind in kinds for name in ("plain", "10 steps")]
    assert sorted(found) == sorted(names)
    assert all(store.manifest_bytes(one) for one in found.values())


@pytest.mark.parametrize(
    "other",
    [
        {"variants": VARIANTS[:1]},
        {"variants": [VARIANTS[0], {"name": "10 steps", "num_steps": 9.0}]},
        {"seeds": [1.0]},
        {"seeds": [1.0, 2.0, 3.0]},
        {"seeds": [1.0, 3.0]},
        {"baseline": "untouched"},
        {"align_weight": 2.0},
        {"vlm": "/models/other"},
        {"seed": 2.0},
        {"params_sft": {"lr_llm": 7}},
    ],
    ids=str,
)
def test_each_of_two_ablations_gets_its_own_comparison(runs, store, ablations, tmp_path, other):
    pages = {}
    for values in (ablations("one"), ablations("two", **other)):
        pages[values["run"]], _ = compared(store, tmp_path / values["run"], values)
    for run, page in pages.items():
        assert fetch(runs, run, tmp_path / f"out-{run}") == 0
        assert (tmp_path / f"out-{run}" / "report.html").read_text() == page
    assert len({*pages.values()}) == 2


def test_where_several_comparisons_fit_they_are_listed_with_date_and_variants(runs, store, ablations, tmp_path, capsys):
    """As of two sources under one address, or of a changed step."""
    values = ablations("varied")
    digests = [compared(store, tmp_path / name, values, name)[1] for name in ("before", "after")]
    assert fetch(runs, "varied", tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert "2 comparisons fit this run's parameters" in printed
    for digest in digests:
        assert re.search(rf"sha256:{digest}  20\d\d-\d\d-\d\d \d\d:\d\d UTC  10 steps, plain; against plain", printed)
    assert fetch(runs, "varied", tmp_path / "out", "--report", f"sha256:{digests[0]}") == 0


def test_without_a_comparison_of_the_run(runs, store, ablations, tmp_path, capsys):
    publish(store)
    ablations("varied")
    assert fetch(runs, "varied", tmp_path / "out") == 3
    assert "no comparison with this run's parameters" in capsys.readouterr().err
    _, digest = compared(store, tmp_path / "made", ablations("other", num_steps=3.0))
    assert fetch(runs, "varied", tmp_path / "out") == 3
    assert f"name it with --report:\n    sha256:{digest}  20" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_pipeline_that_makes_no_page(runs, store, tmp_path, capsys):
    publish(store)
    spec = runs.answer.runs["rerun_sft"]["pipeline_spec"]["pipeline_spec"]
    parameters = runs.answer.runs["rerun_sft"]["runtime_config"]["parameters"]
    for given in (spec["root"]["inputDefinitions"]["parameters"], parameters):
        del given["rerun_report"]
    assert fetch(runs, "rerun_sft", tmp_path / "out") == 2
    assert "this run's pipeline makes no report" in capsys.readouterr().err
