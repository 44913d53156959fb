"""The acceptance test against a KFP that answers with what a real one answered: what holds, and each check failing."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from components.core.errors import DataError, ParameterError
from components.kubeflow import client
from components.kubeflow.acceptance import Acceptance, Disturbance, Smoke
from components.kubeflow.tree import ROOT
from components.store.entries import Store
from tests.kubeflow.conftest import IMAGE, command_line
from tests.kubeflow.executing_kfp import Act, ExecutingKfp
from tests.kubeflow.kubeflow_server import Server, serve

TASKS = {"dataset-import", "ddim-inversion", "attention-capture", "head-selection", "token-selection", "prior-set"}
TASKS |= {"vlm-attention", "leakage-check", "sft", "benchmark-import", "baseline-eval", "tuned-eval"}
TASKS |= {"tuned-attention", "report"}
AFTER_SFT = {"sft", "tuned-eval", "tuned-attention", "report"}
STEPS = {"dataset_import", "ddim_inversion", "sft", "report"}


def acts(first=None, again=None, rerun=None):
    """What the three runs do where all is well, some of it changed."""
    return [
        Act(**{"shows": "first", "executes": TASKS, "computes": STEPS, **(first or {})}),
        Act(**{"shows": "same_again", **(again or {})}),
        Act(**{"shows": "rerun_sft", "executes": AFTER_SFT, **(rerun or {})}),
    ]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """motion_enhancer compiled for a cluster without GPUs."""
    file = tmp_path_factory.mktemp("package") / "motion_enhancer.yaml"
    process = command_line("compile", "motion_enhancer", "--profile", "cpu", "--image", IMAGE, "--output", file)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return file


@pytest.fixture
def server(alone):
    with serve(Server(ExecutingKfp())) as started:
        yield started


@pytest.fixture(scope="module")
def defaults(package):
    return client.defaults(client.read_package(package)[0])


@pytest.fixture
def smoke(package, defaults, tmp_path):
    values = {**defaults, "store": (tmp_path / "store" / "trial").as_uri()}
    return Smoke(package, values, account="motion-enhancer", every=1, wait=lambda seconds: None)


def seen(server, smoke, tmp_path, *made, disturbance=None):
    """State and what was seen, by check."""
    server.answer.acts = list(made) or acts()
    test = Acceptance(client.connect(server.url, ""), smoke, tmp_path / "out", disturbance)
    return {item.what: (item.state, item.seen) for item in test.run()}


def states(found):
    return [state for state, _ in found.values()]


def failing(found):
    return [what for what, (state, _) in found.items() if state == "failed"]


def test_all_holds_and_where_a_list_stands_still_the_store_tells(server, smoke, tmp_path):
    found = seen(server, smoke, tmp_path)
    assert states(found) == ["ok"] * 13, found
    assert found["same again: executes plan alone"][1] == "published again: none"
    assert found["same again: the others from KFP's cache"][1] == "executed: plan; 15 of 15 tasks listed"
    assert (tmp_path / "out" / "report.html").exists()
    runs = server.bodies("POST", "/apis/v2beta1/runs")
    assert [run["runtime_config"]["parameters"]["rerun_sft"] for run in runs] == ["0", "0", "1"]
    assert {run["pipeline_version_reference"]["pipeline_version_id"] for run in runs} == {"version-1"}
    assert not any("pipeline_spec" in run or run["service_account"] != "motion-enhancer" for run in runs)
    assert not any("metadata" in path for _, path, _, _ in server.requests)  # nothing of ML Metadata


def test_a_list_that_stopped_early_is_no_verdict_unless_it_shows_too_much(server, smoke, tmp_path):
    found = seen(server, smoke, tmp_path, *acts(again={"until": "2026-11-29T17:37"}, rerun={"shows": "first"}))
    state, said = found["same again: the others from KFP's cache"]
    assert state == "?"
    assert re.fullmatch(r"KFP's list stopped early: \d+ of 15 tasks listed", said)
    assert failing(found) == ["rerun sft: the others from KFP's cache"]  # its import was executed


def at(smoke, folder):
    """The same in another store."""
    return replace(smoke, values={**smoke.values, "store": folder.as_uri()})


@pytest.mark.parametrize(
    ("changed", "fails", "said"),
    [
        (
            {"first": {"executes": TASKS - {"token-selection"}}},
            "first run: every task publishes what it made",
            "of token-selection",
        ),
        ({"again": {"computes": {"sft"}}}, "same again: computes nothing", "objects written: sft: 2"),
        ({"again": {"executes": {"vlm-attention"}}}, "same again: executes plan alone", "too much: vlm-attention"),
        ({"again": {"shows": "rerun_sft"}}, "same again: the others from KFP's cache", "too much: report, sft"),
        ({"rerun": {"computes": {"ddim_inversion"}}}, "rerun sft: computes nothing that is there", "ddim_inversion: 2"),
        (
            {"rerun": {"executes": {*AFTER_SFT, "baseline-eval"}}},
            "rerun sft: executes it and what follows, no other",
            "too much: baseline-eval",
        ),
        (
            {"rerun": {"executes": {"report"}}},
            "rerun sft: executes it and what follows, no other",
            "too little: sft, tuned-attention, tuned-eval",
        ),
        ({"rerun": {"shows": "same_again"}}, "rerun sft: the others from KFP's cache", "too little: report, sft"),
        ({"first": {"page": b"an error page"}}, "report: fetched, and is a page", "13 bytes"),
    ],
)
def test_each_check_fails_by_itself(server, smoke, tmp_path, changed, fails, said):
    found = seen(server, smoke, tmp_path, *acts(**changed))
    assert failing(found) == [fails]
    assert said in found[fails][1]


def test_what_is_gone_from_the_store_is_found_by_the_digests(server, smoke, tmp_path):
    def lose(number, store):
        if number == 2:
            for item in list(store.backend.walk("manifests")):
                if json.loads(store.backend.get(item.path))["kind"] == "baseline-eval":
                    store.backend.delete(item.path)

    server.answer.after = lose
    found = seen(server, smoke, tmp_path)
    assert failing(found) == ["report: its digests hold"]
    assert found["report: its digests hold"][1] == "not in the store: untouched motionbench"


def test_a_report_that_is_not_there_or_damaged_is_not_fetched(server, smoke, tmp_path):
    def lose(number, store):
        if number == 2:
            (page,) = (item.path for item in store.backend.walk("report") if item.path.endswith(".html"))
            store.backend.put(page, b"cut")

    server.answer.after = lose
    found = seen(server, smoke, tmp_path)
    assert found["report: fetched, and is a page"][0] == "failed"
    assert "rerun_report" in found["report: fetched, and is a page"][1]
    assert states(found)[-1] == "not run"


def test_a_killed_task_and_a_failed_driver_end_it_with_their_reasons(server, smoke, tmp_path):
    failure = {"task": "sft", "exit_code": 75, "problem": "told to stop", "source": "SIGTERM", "remedy": "run again"}
    made = acts(first={"shows": "sft_killed", "executes": {"prior-set"}, "failure": failure})
    found = seen(server, smoke, tmp_path, *made)
    assert states(found) == ["ok", "failed", *["not run"] * 11]
    assert "sft ended with code 75: told to stop\n" in found["first run: succeeds"][1]
    server.answer.runs.clear()
    found = seen(server, at(smoke, tmp_path / "second"), tmp_path, *acts(again={"shows": "driver_failed"}))
    assert states(found) == ["ok"] * 3 + ["failed"] + ["not run"] * 9
    assert "iteration-driver of for-loop-3 (vlm-attention), which is KFP's own, failed" in str(found)


def test_a_failing_rerun_is_told(server, smoke, tmp_path):
    found = seen(server, smoke, tmp_path, *acts(rerun={"shows": "driver_failed"}))
    assert states(found) == ["ok"] * 7 + ["failed"] + ["not run"] * 5
    assert failing(found) == ["rerun sft: succeeds"]


def test_two_pipelines_of_one_name_are_no_guess(server, smoke, tmp_path):
    server.answer.pipelines = [{"pipeline_id": name, "display_name": "motion-enhancer"} for name in "ab"]
    found = seen(server, smoke, tmp_path)
    assert states(found) == ["failed"] + ["not run"] * 12
    assert "2 pipelines are called 'motion-enhancer'" in found["pipeline uploaded"][1]


def test_a_run_that_does_not_end_is_given_up(server, smoke, tmp_path, monkeypatch):
    waited = []

    def wait(seconds):
        waited.append(seconds)
        assert len(waited) < 10

    monkeypatch.setattr("time.monotonic", lambda: 1000.0 * len(waited))
    server.answer.after = lambda number, store: [run.update(state="RUNNING") for run in server.answer.runs.values()]
    found = seen(server, replace(smoke, limit=3000, wait=wait), tmp_path)
    assert failing(found) == ["first run: succeeds"]
    assert "goes on after 3000 s" in found["first run: succeeds"][1]
    assert len(waited) == 4


def test_a_store_that_cannot_be_used_is_told_before_anything_is_submitted(server, smoke, tmp_path, monkeypatch):
    Store(smoke.values["store"]).backend.put("other.txt", b"x")
    with pytest.raises(DataError, match="1 objects lie in the new store already"):
        seen(server, smoke, tmp_path)
    for name in ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ParameterError, match="no S3_ENDPOINT"):
        seen(server, replace(smoke, values={**smoke.values, "store": "minio://b/s"}), tmp_path)
    assert not [path for method, path, _, _ in server.requests if method == "POST"]


# A pod of the first run is deleted ------------------------------------------------------------------------------------


@pytest.fixture
def api(cluster):
    from components.kubeflow.cluster_check import core_api

    return core_api()


def disturbed(server, smoke, tmp_path, cluster, api, node):
    """The first run goes on for two answers; from the second on it has a pod of this Argo node."""
    asked = []

    def begin(number, store):
        if number == 0:
            (run,) = server.answer.runs.values()
            run["state"] = "RUNNING"

    def wait(seconds):
        asked.append(seconds)
        (run,) = server.answer.runs.values()
        cluster.answer.pod(run["run_id"], "motion-enhancer-x(0).root(0).plan(0).executor(0)")
        cluster.answer.pod(run["run_id"], "motion-enhancer-x(0).root(0).sft-driver(0)")
        cluster.answer.pod("another-run", "motion-enhancer-y(0).root(0).sft(0).executor(0)")
        cluster.answer.pod(run["run_id"], "motion-enhancer-x(0).root(0).report(0).executor(0)", phase="Pending")
        cluster.answer.pod(run["run_id"], node)
        run["state"] = "SUCCEEDED" if len(asked) == 2 else "RUNNING"

    server.answer.after = begin
    found = seen(server, replace(smoke, wait=wait), tmp_path, *acts(), disturbance=Disturbance(api, "team-a"))
    deleted = [path for method, path, _, _ in cluster.requests if method == "DELETE"]
    return found, deleted


def test_one_running_pod_of_a_step_is_deleted(server, smoke, tmp_path, cluster, api):
    loop = "motion-enhancer-x(0).root(0).for-loop-4(0).iteration-iterations(0:0)(0).iteration-item(0)"
    node = f"{loop}.baseline-eval(0).executor(0)"
    found, deleted = disturbed(server, smoke, tmp_path, cluster, api, node)
    assert states(found) == ["ok"] * 14
    assert deleted == ["/api/v1/namespaces/team-a/pods/pod-4"]
    assert found["first run: goes on after a deleted pod"][1] == "pod-4, of baseline-eval"


def test_where_no_pod_was_met_the_check_fails(server, smoke, tmp_path, cluster, api):
    found, deleted = disturbed(server, smoke, tmp_path, cluster, api, "motion-enhancer-x(0).root(0).sft-driver(0)")
    assert (failing(found), deleted) == (["first run: goes on after a deleted pod"], [])


def test_who_may_not_delete_pods_learns_it_first(cluster, api):
    cluster.answer.denied = {"pods"}
    with pytest.raises(ParameterError, match="may not list and delete pods in team-a"):
        Disturbance(api, "team-a")


# The command ----------------------------------------------------------------------------------------------------------


def made_command(server, tmp_path, **variables):
    """What `make cluster-smoke` executes, in this Python."""
    given = {"HOST": server.url, "STORE": (tmp_path / "store").as_uri(), "SOURCE": "minio://b/scenes", "IMAGE": IMAGE}
    given |= {
        "BENCHMARKS": "motionbench=minio://b/bench favor=minio://b/favor",
        "SERVICE_ACCOUNT": "runner",
        **variables,
    }
    command = ["make", "-n", "cluster-smoke", *(f"{name}={value}" for name, value in given.items())]
    above = {name for name in os.environ if name.startswith("MAKE")}  # `make test` runs this
    environment = {name: value for name, value in os.environ.items() if name not in above}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    line = shown[shown.index(".venv/bin/motion-enhancer cluster-smoke") :].replace(".venv/bin/motion-enhancer", "", 1)
    output = f"--output {tmp_path}/out --every 1"
    return subprocess.run(
        f"{sys.executable} -m components.cli {line.strip()} {output}".replace("\\\n", " "),
        shell=True, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_prints_the_table_and_ends_with_1_if_anything_does_not_hold(server, tmp_path):
    server.answer.acts = acts()
    done = made_command(server, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * 13
    assert lines[-1].startswith("nothing of 13 did not hold; what the runs wrote: file://")
    (first, *_) = server.bodies("POST", "/apis/v2beta1/runs")
    values = first["runtime_config"]["parameters"]
    assert values["benchmarks"] == ["motionbench=minio://b/bench", "favor=minio://b/favor"]
    assert (values["source"], values["vlm"], values["vdm"]) == (
        "minio://b/scenes",
        "scenes-qwen2.5-vl",
        "scenes-cogvideox",
    )
    assert values["params_ddim_inversion"]["num_frames"] == 17  # the smoke's
    assert first["service_account"] == "runner"
    spec = server.answer.versions[-1]["pipeline_spec"]
    assert "nodeSelector" not in json.dumps(spec["platform_spec"])
    server.answer.runs.clear()
    server.answer.acts = acts(again={"computes": {"sft"}})
    done = made_command(server, tmp_path, BENCHMARKS='["motionbench=minio://b/bench"]')
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^failed +same again: computes nothing +objects written: sft: 2$", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1].startswith("1 of 13 did not hold")
    values = server.bodies("POST", "/apis/v2beta1/runs")[3]["runtime_config"]["parameters"]
    assert values["benchmarks"] == ["motionbench=minio://b/bench"]
    assert len(server.answer.pipelines) == 1  # the second upload is a version of the first
