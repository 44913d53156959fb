"""`status` on what KFP 2.17's run API answered for real runs (`recorded/`, cut to what is read here)."""

import copy
import logging

import pytest

from components.core.errors import TryAgainError
from components.kubeflow import client, run_status
from components.store.failures import TaskFailure, write_failure
from tests.command import motion_enhancer
from tests.kubeflow.executing_kfp import RECORDED


def call(server, command, run, *more):
    return motion_enhancer(command, run, *more, "--host", server.url)


def rows(printed):
    """The printed table by task: state, done, cached."""
    lines = [line.split() for line in printed.splitlines()[1:]]
    return {line[0]: tuple(line[1:4]) for line in lines if len(line) == 5 and "/" in line[2]}


def test_status_shows_tasks_with_state_iterations_and_cache_hits(runs, capsys):
    assert call(runs, "status", "rerun_sft") == 0
    printed = capsys.readouterr().out
    executed = ("plan", "sft", "tuned-eval", "tuned-attention", "report")
    loops = ("ddim-inversion", "attention-capture", "token-selection", "vlm-attention")
    cached = ("dataset-import", "benchmark-import", "baseline-eval", "head-selection", "prior-set")
    assert rows(printed) == {
        **dict.fromkeys(executed, ("SUCCEEDED", "1/1", "0")),
        **dict.fromkeys(loops, ("SUCCEEDED", "2/2", "2")),
        **dict.fromkeys(cached, ("SUCCEEDED", "1/1", "1")),
    }
    assert printed.splitlines()[-1] == "run rerun_sft: SUCCEEDED, 14 of 14 tasks"


def test_a_failed_run_names_its_tasks_and_the_place_of_the_log(runs, capsys):
    assert call(runs, "status", "driver_failed") == 1
    printed = capsys.readouterr().out
    assert "report" not in rows(printed)  # it was left out
    assert rows(printed)["plan"] == ("SUCCEEDED", "1/1", "0")
    assert "run driver_failed: FAILED, 9 of 14 tasks" in printed
    assert f"logs: {runs.url}/#/runs/details/driver_failed" in printed
    for node in runs.answer.runs["driver_failed"]["run_details"]["task_details"]:
        if node.get("display_name") == "token-selection":
            node["state"] = "FAILED"
    assert call(runs, "status", "driver_failed") == 1
    printed = capsys.readouterr().out
    assert rows(printed)["token-selection"] == ("FAILED", "1/1", "0")
    assert "token-selection failed and wrote nothing: it was killed" in printed


def test_a_failed_driver_is_named_with_its_loop_and_kfps_own_message(runs, capsys):
    """The recorded answer has no message. A driver that failed once and went well then is not named."""
    assert call(runs, "status", "driver_failed") == 1
    printed = capsys.readouterr().out
    named = "iteration-driver of for-loop-3 (vlm-attention), which is KFP's own, failed: "
    assert f"{named}its API gives no message, the UI shows its log\n  remedy: a new submission" in printed
    assert "prior-set-driver" not in printed
    for node in runs.answer.runs["driver_failed"]["run_details"]["task_details"]:
        if node.get("display_name") == "iteration-driver":
            node["state_history"] = [{"state": "FAILED", "error": {"message": "two tasks have the same task name"}}]
    assert call(runs, "status", "driver_failed") == 1
    assert f"{named}two tasks have the same task name\n" in capsys.readouterr().out


def record(store, task, run=RECORDED["sft_killed"]["run_id"], **more):
    fields = {"exit_code": 2, "problem": "the first line\nthe second", "source": "params_sft", "remedy": "lower lr_llm"}
    return write_failure(store, TaskFailure(run=run, task=task, time="2026-11-29T18:02:24+00:00", **fields | more))


@pytest.fixture
def killed(runs):
    """The id of the recorded run of which sft was killed: its list stopped in the first loop, long before that."""
    run_id = RECORDED["sft_killed"]["run_id"]
    runs.answer.runs[run_id] = runs.answer.runs.pop("sft_killed") | {"run_id": run_id}
    return run_id


def test_a_list_that_stood_still_leaves_the_reason_to_what_the_step_wrote(runs, store, killed, capsys):
    assert call(runs, "status", killed) == 1
    printed = capsys.readouterr().out
    assert printed.count("stopped before the run's end") == 1
    assert "no task wrote why: one was killed" in printed
    record(store, "sft")
    record(store, "plan")  # the list shows it as succeeded
    record(store, "attention_capture", item="3/8", exit_code=75)
    record(store, "attention_capture", item="5/8", exit_code=75)
    assert call(runs, "status", killed) == 1
    printed = capsys.readouterr().out
    said = "{} ended with code {}: the first line\n  where:  params_sft\n  remedy: lower lr_llm\n"
    assert said.format("sft", 2) in printed
    assert said.format("attention-capture (3/8, 5/8)", 75) in printed
    assert "plan ended" not in printed
    assert "killed" not in printed.replace(killed, "")


def test_a_list_that_stopped_between_two_tasks_is_told_by_its_run(runs, store, killed, capsys):
    details = runs.answer.runs[killed]["run_details"]
    details["task_details"] = [
        node for node in details["task_details"] if node.get("state") in ("SUCCEEDED", "SKIPPED")
    ]
    record(store, "sft")
    assert call(runs, "status", killed) == 1
    printed = capsys.readouterr().out
    assert printed.count("stopped before the run's end") == 1
    assert "sft ended with code 2" in printed


def test_where_the_list_is_whole_only_failed_tasks_count(runs, store, killed, capsys):
    run = runs.answer.runs[killed]
    run["run_details"] = copy.deepcopy(RECORDED["rerun_sft"]["run_details"])
    for node in run["run_details"]["task_details"]:
        if node.get("display_name") == "sft":
            node["state"] = "FAILED"
    record(store, "sft")
    record(store, "tuned_eval")  # of a try that another followed, without a note that it went well
    assert call(runs, "status", killed) == 1
    printed = capsys.readouterr().out
    assert "sft ended with code 2: the first line" in printed
    assert "tuned-eval ended" not in printed


def test_without_keys_the_reason_cannot_be_read_and_that_is_one_line(runs, killed, capsys, monkeypatch):
    runs.answer.runs[killed]["runtime_config"]["parameters"]["store"] = "minio://bucket/store"
    for name in ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert call(runs, "status", killed) == 1
    printed = capsys.readouterr().out
    assert printed.count("cannot be read here: no S3_ENDPOINT in the environment") == 1


def test_a_run_that_was_started_in_the_ui_has_the_pipeline_of_its_version(of_the_ui, capsys):
    assert call(of_the_ui, "status", "rerun_sft") == 0
    assert "SUCCEEDED, 14 of 14 tasks" in capsys.readouterr().out
    assert call(of_the_ui, "rerun", "rerun_sft", "--task", "sft") == 0
    assert of_the_ui.bodies("POST", "/apis/v2beta1/runs")[0]["pipeline_version_reference"]["pipeline_version_id"] == "v"


def test_where_its_version_is_deleted_the_number_of_tasks_is_not_known(of_the_ui, capsys):
    of_the_ui.answer.versions.clear()
    assert call(of_the_ui, "status", "rerun_sft") == 0
    printed = capsys.readouterr().out
    assert len(rows(printed)) == 14
    assert printed.splitlines()[-1] == "run rerun_sft: SUCCEEDED, 14 tasks"
    assert printed.count("how many tasks it has is not known") == 1


def test_a_list_without_a_change_for_long_may_stand_still(runs, capsys):
    runs.answer.runs["first"]["state"] = "RUNNING"
    assert call(runs, "status", "first") == 0
    printed = capsys.readouterr().out
    assert printed.count("the last change in this list is of 2026-11-29 17:31 UTC") == 1


def test_a_list_of_tasks_that_stopped_before_the_run_is_called_so_once(runs, capsys):
    """Argo compresses the status of a long run; KFP keeps the last list it could read."""
    assert call(runs, "status", "first") == 0
    printed = capsys.readouterr().out
    assert printed.count("stopped before the run's end") == 1
    assert "run first: SUCCEEDED, 11 of 14 tasks" in printed
    assert call(runs, "status", "rerun_sft") == 0
    assert "stopped before" not in capsys.readouterr().out


def test_no_such_run(runs, capsys):
    for command, *more in (("status",), ("status", "--watch"), ("fetch", "-o", "x"), ("rerun", "--task", "sft")):
        assert call(runs, command, "nowhere", *more) == 3
        assert "no run nowhere" in capsys.readouterr().err


def test_a_run_that_has_not_begun_has_no_tasks(runs):
    del runs.answer.runs["first"]["run_details"]
    runs.answer.runs["first"]["state"] = "PENDING"
    found = run_status.run_status(client.connect(runs.url, "kubeflow"), "first")
    assert (found.state, found.tasks, found.total, found.stale) == ("PENDING", [], 14, False)


def test_watch_waits_for_the_end_and_logs_each_change(runs, caplog):
    caplog.set_level("INFO")
    runs.answer.runs["first"]["state"] = "RUNNING"
    waited = []

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            runs.answer.runs["first"]["state"] = "SUCCEEDED"

    found = run_status.watch(client.connect(runs.url, "kubeflow"), "first", 15, wait)
    assert (found.state, waited) == ("SUCCEEDED", [15, 15, 15])
    logged = [record.getMessage() for record in caplog.records if "tasks" in record.getMessage()]
    assert logged == [f"first: {state}, 11 of 14 tasks; " for state in ("RUNNING", "SUCCEEDED")]
    assert caplog.text.count("or a list that stands still") == 1


def test_watch_outlives_a_server_that_is_away_and_counts_only_failures_in_a_row(runs, caplog):
    """Away 30 times in all, twice 15 in a row, over a run of days."""
    caplog.set_level(logging.WARNING)
    kubeflow = client.connect(runs.url, "kubeflow")
    runs.answer.runs["first"]["state"] = "RUNNING"
    waited = []

    def wait(seconds):
        waited.append(seconds)
        runs.broken = None if len(waited) in (16, 32) or len(waited) > 32 else (503, "text/plain", b"")
        if len(waited) == 33:
            runs.answer.runs["first"]["state"] = "SUCCEEDED"

    assert run_status.watch(kubeflow, "first", 5, wait).state == "SUCCEEDED"
    assert len(waited) == 33
    runs.broken = (503, "text/plain", b"")
    with pytest.raises(TryAgainError):
        run_status.watch(kubeflow, "first", 5, lambda _: None)
