"""`status`, `logs` and `fetch` of runs: KFP's REST answers, and what a real ml-metadata store answered (see `make_metadata.py`)."""

import json
import logging

import pytest

from components.core.artifacts import Report
from components.core.errors import DataError
from components.core.records import Ref, sha256
from components.kubeflow import client, client_metadata, client_runs
from components.kubeflow.client_cluster import MEANINGS, exit_code
from components.store.entries import Store
from tests.command import motion_enhancer
from tests.kubeflow.kubeflow_server import RECORDED

RUNS = RECORDED["runs"]
PAGE = b"<html>the report of a run</html>"
STATES = {"done": "SUCCEEDED", "failed": "FAILED", "running": "RUNNING"}
LOG = "INFO sft: step 3 of 9\nERROR sft: max_steps: Input should be greater than 0\nINFO sft: exit {} after 12.3 s\n"


def leaf(name):
    return {"componentRef": {"name": f"comp-{name}"}}


@pytest.fixture
def runs(kubeflow, tmp_path):
    """Three runs with their pipeline, a loop in it; their store is a folder with the report that the metadata store knows."""
    names = ("plan", "dataset-import", "ddim-inversion", "sft", "report")
    components = {f"comp-{name}": {"executorLabel": f"exec-{name}"} for name in names}
    components["comp-for-loop-1"] = {"dag": {"tasks": {"ddim-inversion": leaf("ddim-inversion")}}}
    tasks = {name: leaf(name) for name in (*names, "for-loop-1") if name != "ddim-inversion"}
    inputs = {"store": {"parameterType": "STRING", "defaultValue": (tmp_path / "store").as_uri()}}
    spec = {"components": components, "root": {"dag": {"tasks": tasks}, "inputDefinitions": {"parameters": inputs}}}
    for name, run_id in RUNS.items():
        kubeflow.answer.runs[run_id] = {
            "run_id": run_id,
            "display_name": name,
            "state": STATES[name],
            "experiment_id": "e",
            "pipeline_spec": spec,
            "runtime_config": {"parameters": {}},
        }
    return kubeflow


def call(server, command, run, *more):
    return motion_enhancer(command, RUNS.get(run, run), *more, "--host", server.url)


def rows(printed):
    """The printed table by task: state, done, cached."""
    lines = [line.split() for line in printed.splitlines() if line and line[0].isalpha() and "/" in line]
    return {line[0]: tuple(line[1:4]) for line in lines if len(line) == 5}


# status ---------------------------------------------------------------------------------------------------------------


def test_status_shows_tasks_with_state_iterations_and_cache_hits(runs, capsys):
    assert call(runs, "status", "done") == 0
    printed = capsys.readouterr().out
    assert rows(printed) == {
        "plan": ("COMPLETE", "1/1", "0"),
        "dataset-import": ("CACHED", "1/1", "1"),
        "ddim-inversion": ("COMPLETE", "2/2", "1"),
        "report": ("COMPLETE", "1/1", "0"),
    }
    assert printed.splitlines()[-1] == f"run {RUNS['done']}: SUCCEEDED, 4 of 5 tasks"


def test_status_of_a_run_that_goes_on(runs, capsys):
    assert call(runs, "status", "running") == 0
    assert rows(capsys.readouterr().out) == {
        "plan": ("COMPLETE", "1/1", "0"),
        "ddim-inversion": ("RUNNING", "1/2", "0"),
    }


@pytest.mark.parametrize("code", [2, 3, 75, 1])
def test_a_failed_run_ends_with_the_failed_steps_own_code(runs, capsys, code):
    """KFP's launcher ends with 1 whatever its process ended with; the step's log tells."""
    runs.answer.logs["failed-sft-1"] = LOG.format(code).encode()
    assert call(runs, "status", "failed") == code
    printed = capsys.readouterr().out
    assert rows(printed)["sft"][0] == "FAILED"
    assert f"sft ended with code {code}: {MEANINGS[code]}" in printed
    assert "Input should be greater than 0" in printed


def test_a_failed_run_whose_log_is_gone(runs, capsys):
    assert call(runs, "status", "failed") == 1
    printed = capsys.readouterr().out
    assert "its exit code is not told" in printed
    assert "kubectl logs -n team-a failed-sft-1" in printed


def test_exit_code_is_the_last_one():
    assert exit_code("sft: exit 75 after 1.0 s\nretry\nsft: exit 3 after 2.5 s\n") == 3
    assert exit_code("killed") is None


def test_without_the_metadata_store_the_apis_own_tasks_are_shown(runs, capsys, caplog):
    caplog.set_level("INFO")
    runs.answer.metadata = False
    times = {"start_time": "2026-01-01T10:00:00Z", "end_time": "2026-01-01T10:02:05Z"}
    nodes = [
        ("plan", "SUCCEEDED"),
        ("plan-driver", "SUCCEEDED"),
        ("executor", "SKIPPED"),
        ("sft", "FAILED"),
        ("root", "FAILED"),
    ]
    details = [{"display_name": name, "state": state, **times} for name, state in nodes]
    runs.answer.runs[RUNS["failed"]]["run_details"] = {"task_details": details}
    assert call(runs, "status", "failed") == 1
    printed = capsys.readouterr().out
    assert rows(printed) == {"plan": ("SUCCEEDED", "1/1", "?"), "sft": ("FAILED", "1/1", "?")}
    assert " 125" in printed
    assert "KFP's UI" in caplog.text


def test_no_such_run(runs, capsys):
    for command, more in (("status", ()), ("status", ("--watch",)), ("logs", ("sft",)), ("fetch", ("-o", "x"))):
        assert call(runs, command, "nowhere", *more) == 3
        assert "no run nowhere" in capsys.readouterr().err


def test_a_run_that_has_not_begun_has_no_tasks(runs):
    found = client_metadata.executions(client.connect(runs.url, "kubeflow"), "unknown")
    assert found == []


# --watch --------------------------------------------------------------------------------------------------------------


def test_watch_waits_for_the_end_and_tells_each_change(runs, caplog):
    caplog.set_level("INFO")
    kubeflow = client.connect(runs.url, "kubeflow")
    waited = []

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            runs.answer.runs[RUNS["running"]]["state"] = "SUCCEEDED"

    found = client_runs.watch(kubeflow, RUNS["running"], 15, wait)
    assert found.state == "SUCCEEDED"
    assert waited == [15, 15, 15]
    told = [record.getMessage() for record in caplog.records if "tasks" in record.getMessage()]
    assert told == [
        f"{RUNS['running']}: {state}, 1 of 5 tasks; ddim-inversion 1/2" for state in ("RUNNING", "SUCCEEDED")
    ]


def test_watch_outlives_a_server_that_is_away_for_a_while(runs, caplog):
    caplog.set_level(logging.WARNING)
    kubeflow = client.connect(runs.url, "kubeflow")
    runs.broken = (503, "text/plain", b"")
    waited = []

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 4:
            runs.broken = None

    assert client_runs.watch(kubeflow, RUNS["done"], 5, wait).state == "SUCCEEDED"
    assert len(waited) == 4
    runs.broken = (503, "text/plain", b"")
    with pytest.raises(client.TryAgainError):
        client_runs.watch(kubeflow, RUNS["done"], 5, lambda _: None)


def test_only_misses_in_a_row_count(runs):
    """Away 30 times in all, twice 15 in a row, over a run of days."""
    kubeflow = client.connect(runs.url, "kubeflow")
    waited = []

    def wait(seconds):
        waited.append(seconds)
        runs.broken = None if len(waited) in (16, 32) or len(waited) > 32 else (503, "text/plain", b"")
        if len(waited) == 33:
            runs.answer.runs[RUNS["running"]]["state"] = "SUCCEEDED"

    assert client_runs.watch(kubeflow, RUNS["running"], 5, wait).state == "SUCCEEDED"
    assert len(waited) == 33


def test_watch_at_the_command_line(runs, capsys):
    assert call(runs, "status", "done", "--watch") == 0
    assert "SUCCEEDED" in capsys.readouterr().out


# logs -----------------------------------------------------------------------------------------------------------------


def test_logs_from_kfp_where_there_is_no_kubeconfig(runs, capsys):
    runs.answer.logs["failed-sft-1"] = b"line one\nline two\n"
    assert call(runs, "logs", "failed", "sft") == 0
    assert capsys.readouterr().out == "line one\nline two\n"
    assert f"/apis/v1alpha1/runs/{RUNS['failed']}/nodes/failed-sft-1/log" in [path for _, path, _, _ in runs.requests]


def test_logs_from_the_cluster(runs, cluster, capsys):
    cluster.answer.items["team-a", "pods", "failed-sft-1"] = b"from the pod\n"
    runs.answer.logs["failed-sft-1"] = b"from KFP\n"
    assert call(runs, "logs", "failed", "sft") == 0
    assert capsys.readouterr().out == "from the pod\n"
    assert any(
        path.startswith("/api/v1/namespaces/team-a/pods/failed-sft-1/log?container=main")
        for _, path, _, _ in cluster.requests
    )
    del cluster.answer.items["team-a", "pods", "failed-sft-1"]  # archived
    assert call(runs, "logs", "failed", "sft") == 0
    assert capsys.readouterr().out == "from KFP\n"


def test_logs_that_nobody_has(runs, capsys):
    assert call(runs, "logs", "failed", "sft") == 3  # an error under HTTP 200
    said = capsys.readouterr().err
    assert "no log of pod failed-sft-1" in said
    assert "kubectl logs -n team-a" in said


def test_logs_of_a_loop_are_those_of_the_executed_iterations(runs, capsys):
    runs.answer.logs |= {"done-ddim-inversion-3": b"executed\n"}
    assert call(runs, "logs", "done", "ddim_inversion") == 0
    assert capsys.readouterr().out == "executed\n"
    runs.answer.logs |= {"running-ddim-inversion-1": b"one\n", "running-ddim-inversion-2": b"two\n"}
    assert call(runs, "logs", "running", "ddim-inversion") == 0
    assert capsys.readouterr().out == "—— running-ddim-inversion-1\none\n—— running-ddim-inversion-2\ntwo\n"


def test_logs_of_a_cached_or_unknown_task(runs, capsys):
    assert call(runs, "logs", "done", "dataset-import") == 3
    assert "KFP's cache" in capsys.readouterr().err
    assert call(runs, "logs", "done", "sft") == 2
    assert "dataset-import" in capsys.readouterr().err


def test_a_pod_that_only_found_the_cache_hit_has_no_log_of_the_task(runs, monkeypatch):
    hit = client_metadata.Execution("sft", "", "CACHED", 1.0, 2.0, "driver-pod", "team-a")
    monkeypatch.setattr(client_metadata, "executions", lambda *_: [hit])
    with pytest.raises(DataError, match="KFP's cache"):
        client_runs.task_logs(client.connect(runs.url, "kubeflow"), RUNS["done"], "sft")


# fetch ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def report(runs, tmp_path):
    """The run's store holds the report that the metadata store names, KFP's the summary."""
    store = Store((tmp_path / "store").as_uri())
    page = Ref(path=f"report/{'0' * 32}/page.html", sha256=sha256(PAGE), bytes=len(PAGE), task="report")
    store.backend.put(page.path, PAGE)
    published = store.publish(Report(kind="Report", provenance={}, page=page))
    assert f"sha256:{published}" == RECORDED["report"], "make metadata.json again with this digest"
    key = f"v2/artifacts/motion-enhancer/{RUNS['done']}/report/44444444-4444-4444-8444-444444444444/summary"
    runs.answer.files["minio", "mlpipeline", key] = b"| benchmark | untouched | tuned |\n"
    return store


def test_fetch_brings_page_summary_and_digests(runs, report, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(runs, "fetch", "done", "-o", out, "--namespace", "team-a") == 0
    assert capsys.readouterr().out.split() == [
        str(out / name) for name in ("manifests.json", "report.html", "summary.md")
    ]
    assert (out / "report.html").read_bytes() == PAGE
    assert (out / "summary.md").read_text() == "| benchmark | untouched | tuned |\n"
    assert json.loads((out / "manifests.json").read_text()) == [
        {"task": "dataset-import", "output": "videos", "kind": "VideoDataset", "digest": f"sha256:{'a' * 64}"},
        {"task": "report", "output": "report", "kind": "Report", "digest": RECORDED["report"]},
    ]
    (asked,) = [path for _, path, _, _ in runs.requests if path.startswith("/artifacts/get")]
    assert "namespace=team-a" in asked
    assert "providerInfo=%7B%22Provider%22" in asked


def test_fetch_of_a_run_that_is_not_over(runs, report, tmp_path, capsys):
    assert call(runs, "fetch", "running", "-o", tmp_path / "out") == 3
    assert "RUNNING" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_fetch_of_a_damaged_report(runs, report, tmp_path, capsys):
    report.backend.put(f"report/{'0' * 32}/page.html", PAGE[:-1] + b"?")
    assert call(runs, "fetch", "done", "-o", tmp_path / "out") == 3
    assert "rerun_report" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.html").exists()


def test_fetch_through_a_host_without_metadata(runs, report, tmp_path, capsys):
    runs.answer.metadata = False
    assert call(runs, "fetch", "done", "-o", tmp_path / "out") == 2
    assert "KFP's UI" in capsys.readouterr().err


# The wire -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [b"", b"<html>", b"\0\0\0\0\x09short", b"\x07\0\0\0\0"])
def test_what_is_no_grpc_web_is_refused(answer):
    with pytest.raises(client_metadata.NoMetadataError):
        client_metadata.frames(answer)


def test_frames():
    trailer = b"grpc-status: 5\r\ngrpc-message: no such context\r\n"
    answer = b"\0\0\0\0\x02ab" + b"\0\0\0\0\x01c" + b"\x80\0\0\0" + bytes([len(trailer)]) + trailer
    assert client_metadata.frames(answer) == (b"abc", 5, "no such context")


def test_states_are_ml_metadatas_numbers(runs):
    found = client_metadata.executions(client.connect(runs.url, "kubeflow"), RUNS["done"])
    assert [(item.task, item.state) for item in found] == [
        ("plan", "COMPLETE"),
        ("dataset-import", "CACHED"),
        ("ddim-inversion", "CACHED"),
        ("ddim-inversion", "COMPLETE"),
        ("report", "COMPLETE"),
    ]
    assert all(1.7e9 < item.started <= item.changed for item in found)
    assert [item.pod for item in found] == ["done-plan-0", "", "", "done-ddim-inversion-3", "done-report-4"]
    assert found[0].title == "title of plan"
