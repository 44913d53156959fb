"""`submit` and `rerun` through the real kfp client against a server that answers as KFP does, and their errors."""

import json
import re
import socket

import pytest

from components.kubeflow.client import TOKEN_PATH, defaults, next_nonce, read_package
from tests.command import motion_enhancer
from tests.kubeflow.conftest import IMAGE, command_line

STORE = "minio://bucket/store"


@pytest.fixture
def package(packages):
    """fine_tune compiled for a cluster."""
    return packages["a100"]


def submit(server, *more):
    return motion_enhancer("submit", *more, "--host", server.url)


def runs_asked(server):
    return server.bodies("POST", "/apis/v2beta1/runs")


def test_submit_compiles_with_the_lock_and_makes_a_run(kubeflow, tmp_path):
    lock = tmp_path / "images.lock.json"
    images = {variant: f"registry.example/{variant}@sha256:{'2' * 64}" for variant in ("gpu", "cpu")}
    lock.write_text(json.dumps(images))
    given = ("--set", f"store={STORE}", "--set", "params_sft.max_steps=7", "--set", "align_weight=0.5")
    given += ("--lock", lock, "--experiment", "nightly", "--host", kubeflow.url)
    process = command_line("submit", "fine_tune", *given)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    assert printed == f"run-0\n{kubeflow.url}/#/runs/details/run-0\n"
    (experiment,) = kubeflow.bodies("POST", "/apis/v2beta1/experiments")
    assert experiment["display_name"] == "nightly"
    (run,) = runs_asked(kubeflow)
    assert run["experiment_id"] == "experiment-0"
    assert run["display_name"].startswith("fine-tune ")
    values = run["runtime_config"]["parameters"]
    assert (values["store"], values["align_weight"], values["seed"], values["rerun_sft"]) == (STORE, 0.5, 1, "0")
    sft = values["params_sft"]
    assert (sft["max_steps"], sft["lora_rank"]) == (7, 16)  # the step's other defaults stay
    spec = run["pipeline_spec"]["pipeline_spec"]
    images = {item["container"]["image"].split("@")[0] for item in spec["deploymentSpec"]["executors"].values()}
    assert images == {"registry.example/gpu", "registry.example/cpu"}
    assert "nodeSelector" in json.dumps(run["pipeline_spec"]["platform_spec"])


def test_parameters_go_as_those_of_run_do(kubeflow, package, tmp_path, capsys):
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps({"seed": 3, "align_weight": 2.0, "params_sft.clip": 0.5}))
    assert submit(kubeflow, package, "--arguments", file, "--set", "seed=4", "--set", "params_sft.warmup=0.1") == 0
    values = runs_asked(kubeflow)[0]["runtime_config"]["parameters"]
    assert (values["seed"], values["align_weight"]) == (4, 2.0)
    assert (values["params_sft"]["clip"], values["params_sft"]["warmup"]) == (0.5, 0.1)
    # the pipeline's own, under no prefix: the images say which code runs
    assert values["store"] == "minio://motion-enhancer/store"
    assert submit(kubeflow, package, "--set", "sede=4") == 2
    assert "seed" in capsys.readouterr().err
    assert len(runs_asked(kubeflow)) == 1


def test_an_experiment_is_used_again_and_two_of_one_name_are_no_guess(kubeflow, package, capsys):
    assert submit(kubeflow, package) == submit(kubeflow, package) == 0
    assert len(kubeflow.bodies("POST", "/apis/v2beta1/experiments")) == 1
    assert [run["experiment_id"] for run in runs_asked(kubeflow)] == ["experiment-0"] * 2
    kubeflow.answer.experiments = [{"experiment_id": name, "display_name": "motion-enhancer"} for name in "ab"]
    assert submit(kubeflow, package) == 2
    assert "--experiment" in capsys.readouterr().err
    assert len(runs_asked(kubeflow)) == 2


def test_a_namespace_is_named_only_where_it_separates_users(kubeflow, package, capsys):
    assert submit(kubeflow, package, "--namespace", "team-a") == 0
    assert not kubeflow.bodies("POST", "/apis/v2beta1/experiments")[0].get("namespace")
    kubeflow.answer.multi_user, kubeflow.answer.experiments = True, []
    assert submit(kubeflow, package, "--namespace", "team-a") == 0
    assert kubeflow.bodies("POST", "/apis/v2beta1/experiments")[1]["namespace"] == "team-a"
    assert submit(kubeflow, package) == 2
    assert "--namespace" in capsys.readouterr().err


def test_a_compiled_file_names_its_images_itself(kubeflow, package, tmp_path, capsys):
    assert submit(kubeflow, package, "--image", IMAGE) == 2
    assert "names its images already" in capsys.readouterr().err
    (tmp_path / "other.yaml").write_text("a: [1, 2]\n")
    assert submit(kubeflow, tmp_path / "other.yaml") == 2
    assert submit(kubeflow, tmp_path / "none.yaml") == 2
    assert not kubeflow.requests


def test_defaults_are_those_of_the_pipeline(package):
    import pipeline
    from components.kubeflow.arguments import pipeline_defaults

    assert defaults(read_package(package)[0]) == pipeline_defaults(pipeline.fine_tune)


@pytest.fixture
def first(kubeflow, package):
    """A run that stands there already."""
    given = ("--set", f"store={STORE}", "--set", "params_sft.max_steps=7")
    assert submit(kubeflow, package, *given) == 0
    return kubeflow


def rerun(server, run_id, *more):
    return motion_enhancer("rerun", run_id, *more, "--host", server.url)


def test_rerun_changes_one_nonce_and_nothing_else(first, capsys):
    capsys.readouterr()
    assert rerun(first, "run-0", "--task", "sft") == 0
    assert capsys.readouterr().out.splitlines() == ["rerun_sft=1", "run-1", f"{first.url}/#/runs/details/run-1"]
    before, after = runs_asked(first)
    assert after["pipeline_spec"] == before["pipeline_spec"]
    assert after["experiment_id"] == before["experiment_id"]
    values = [run["runtime_config"]["parameters"] for run in (before, after)]
    assert {name for name in values[0] if values[0][name] != values[1][name]} == {"rerun_sft"}
    assert values[0].keys() == values[1].keys()
    assert after["display_name"] == f"{before['display_name']} · again: sft"


def test_a_nonce_is_one_that_no_run_of_the_experiment_had(first):
    """From the first run each time: KFP's cache would answer a nonce that was there."""
    for number, task in ((1, "sft"), (2, "sft"), (3, "sft"), (1, "tuned-eval")):
        assert rerun(first, "run-0", "--task", task) == 0
        values = runs_asked(first)[-1]["runtime_config"]["parameters"]
        assert values[f"rerun_{task.replace('-', '_')}"] == str(number)
        assert runs_asked(first)[-1]["display_name"].count("again") == 1


def test_several_tasks_other_parameters_and_force(first):
    more = ("--task", "sft", "--task", "tuned_eval", "--set", "params_sft.clip=0.5", "--force")
    assert rerun(first, "run-0", *more) == 0
    values = runs_asked(first)[-1]["runtime_config"]["parameters"]
    assert all(re.fullmatch("force1-[0-9a-f]{8}", values[f"rerun_{name}"]) for name in ("sft", "tuned_eval"))
    assert values["rerun_report"] == "0"
    assert (values["params_sft"]["clip"], values["params_sft"]["max_steps"]) == (0.5, 7)


def test_next_nonce():
    assert next_nonce([{}], "rerun_sft", False) == "1"
    assert next_nonce([{"rerun_sft": "force4"}, {"rerun_sft": "2"}, {"rerun_sft": "again"}], "rerun_sft", False) == "5"
    forced = [next_nonce([{"rerun_sft": "9"}], "rerun_sft", True) for _ in range(2)]
    assert all(re.fullmatch("force10-[0-9a-f]{8}", nonce) for nonce in forced)
    assert len(set(forced)) == 2  # a store may be that of several experiments
    assert next_nonce([{"rerun_sft": forced[0]}], "rerun_sft", False) == "11"


def test_a_run_of_an_uploaded_pipeline_stays_one_of_it(first):
    first.answer.runs["run-0"]["pipeline_version_reference"] = {"pipeline_id": "p", "pipeline_version_id": "v"}
    first.answer.runs["run-0"]["service_account"] = "runner"
    assert rerun(first, "run-0", "--task", "sft") == 0
    made = runs_asked(first)[-1]
    assert made["pipeline_version_reference"] == {"pipeline_id": "p", "pipeline_version_id": "v"}
    assert "pipeline_spec" not in made
    assert made["service_account"] == "runner"


def test_an_unknown_task_is_answered_with_the_known_ones(first, capsys):
    assert rerun(first, "run-0", "--task", "attention-capture") == 2
    assert "baseline-eval, benchmark-import, leakage-check, prior-set" in capsys.readouterr().err
    assert len(runs_asked(first)) == 1


def test_nobody_there_is_75(alone, package, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening
        assert motion_enhancer("submit", package, "--host", f"http://127.0.0.1:{taken.getsockname()[1]}") == 75
    said = capsys.readouterr().err
    assert "cannot reach KFP" in said
    assert "port-forward" in said


@pytest.mark.parametrize(
    ("status", "code", "said"), [(401, 2, "log in"), (403, 2, "log in"), (503, 75, "run again"), (400, 2, "correct")]
)
def test_refusals(kubeflow, package, capsys, status, code, said):
    assert submit(kubeflow, package) == 0
    kubeflow.broken = (status, "application/json", b'{"message": "the server says why"}')
    before = len(kubeflow.requests)
    assert submit(kubeflow, package) == code
    error = capsys.readouterr().err
    assert said in error
    assert ("the server says why" in error) == (status in (503, 400))
    assert len(kubeflow.requests) == before + 1  # asked once: kfp alone would wait 25 s over a 401


def test_a_login_page_is_not_kfp(kubeflow, package, capsys):
    kubeflow.broken = (200, "text/html", b"<html>log in, multi_users</html>")
    assert submit(kubeflow, package) == 2
    assert "not KFP's API" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["token", "cookie"])
def test_credentials_are_kfps_own_and_are_never_shown(kubeflow, package, monkeypatch, capsys, caplog, alone, way):
    secret = "canary-5b1f"
    kubeflow.answer.token = secret
    assert submit(kubeflow, package) == 2
    if way == "token":
        (alone / "token").write_text(secret)
        monkeypatch.setenv(TOKEN_PATH, str(alone / "token"))
    else:
        (alone / "context.json").write_text(json.dumps({"namespace": "", "client_authentication_cookie": secret}))
    assert submit(kubeflow, package) == 0
    kubeflow.broken = (400, "text/plain", secret.encode())
    assert submit(kubeflow, package) == 2
    printed = capsys.readouterr()
    assert secret not in printed.out + printed.err + caplog.text
    assert not any(secret.encode() in body for _, _, body, _ in kubeflow.requests)
