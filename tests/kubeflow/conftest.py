"""A KFP and a Kubernetes of this machine, and the environment in which the real clients find nothing else."""

import copy
import os
import subprocess
import sys

import kfp
import pytest

from components.kubeflow.tree import ROOT
from components.store.entries import Store
from tests.kubeflow.executing_kfp import RECORDED
from tests.kubeflow.kubeflow_server import Kfp, Kubernetes, Server, kubeconfig, serve

IMAGE = f"registry.example/motion-enhancer@sha256:{'1' * 64}"


def command_line(*arguments):
    """Start `motion-enhancer` in a process of its own: a pipeline is compiled as its module is imported."""
    command, pipe = [sys.executable, "-m", "components.cli", *map(str, arguments)], subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), text=True, stdout=pipe, stderr=pipe)


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """fine_tune compiled for A100 nodes, for a cluster without GPUs, and for a training on several nodes."""
    folder = tmp_path_factory.mktemp("packages")
    options = {"a100": (), "cpu": ("--profile", "cpu"), "nodes": ("--sft-nodes", 4, "--scratch-claim", "shared")}
    files = {name: folder / f"{name}.yaml" for name in options}
    started = [
        command_line("compile", "fine_tune", "--image", IMAGE, "--output", file, *options[name])
        for name, file in files.items()
    ]
    for process in started:
        _, said = process.communicate()
        assert process.returncode == 0, said
    return files


@pytest.fixture(scope="session")
def whole_package(tmp_path_factory):
    """motion_enhancer compiled for A100 nodes."""
    file = tmp_path_factory.mktemp("whole") / "motion_enhancer.yaml"
    process = command_line("compile", "motion_enhancer", "--image", IMAGE, "--output", file)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return file


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No kubeconfig, no stored context and no variables of this machine's user."""
    for name in ("ENDPOINT", "UI_ENDPOINT", "SA_TOKEN_PATH"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("S3_ENDPOINT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    return tmp_path


@pytest.fixture
def kubeflow(alone):
    """A KFP for one team; `.answer` holds its state."""
    with serve(Server(Kfp())) as server:
        yield server


@pytest.fixture
def cluster(alone, monkeypatch):
    """A Kubernetes that KUBECONFIG names; `.answer` holds its state."""
    with serve(Server(Kubernetes())) as server:
        file = kubeconfig(alone / "kubeconfig", server.url)
        monkeypatch.setenv("KUBECONFIG", str(file))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
        yield server


@pytest.fixture
def runs(kubeflow, tmp_path):
    """The recorded runs, by their names; their store is a folder."""
    for name, recorded in RECORDED.items():
        kubeflow.answer.runs[name] = run = copy.deepcopy(recorded) | {"run_id": name}
        run["runtime_config"]["parameters"]["store"] = (tmp_path / "store").as_uri()
    return kubeflow


@pytest.fixture
def store(runs, tmp_path):
    return Store((tmp_path / "store").as_uri())


@pytest.fixture
def of_the_ui(runs):
    """A run as the UI makes it: KFP's answer names the uploaded version and holds no pipeline."""
    run = runs.answer.runs["rerun_sft"]
    reference = {"pipeline_id": "p", "pipeline_version_id": "v"}
    runs.answer.versions.append({**reference, "pipeline_spec": run.pop("pipeline_spec")})
    run["pipeline_version_reference"] = reference
    return runs
