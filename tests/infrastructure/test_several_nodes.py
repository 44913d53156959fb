"""SFT on two nodes as Kubeflow Trainer starts them: processes with its variables stand for the pods, the rest is real.

The step creates the TrainJob over TLS, both nodes train one tiny model (gloo), the step keeps the result. It needs no
service.
"""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from components.core.artifacts import TunedModel
from components.core.errors import ParameterError
from components.kubeflow.scheduling import Profile
from components.kubeflow.trainjob import train_job
from components.models.tuned import materialize
from components.sft import nodes
from components.sft.step import STEP
from components.store.entries import Store
from components.vlm_attention.step import STEP as VLM_ATTENTION
from tests.runner import published, run_step
from tests.sft.trainer import Cluster, serving
from tests.vlm_attention import made

VLM = "tiny-qwen2.5-vl"
PARAMS = {"global_batch": 2, "max_steps": 4, "held_out": 0.0, "lr_vision": 1e-3, "lr_llm": 1e-3, "warmup": 0.0}


@pytest.fixture(scope="module")
def maps(made_priors):
    folder, _, artifact = made_priors
    shared = {"vlm": VLM, "shard": "0/1"}
    made_maps = run_step(
        VLM_ATTENTION, folder, folder / "store", {"viewing": made.VIEWING}, shared, {"priors": artifact}, form="frozen"
    )
    return folder / "store", made_maps["maps"]


@pytest.fixture
def on_two_nodes(tmp_path, monkeypatch):
    cluster = Cluster()
    monkeypatch.setattr(nodes, "POLL_S", 0.5)
    monkeypatch.setenv(nodes.MANIFEST, json.dumps(train_job(Profile("a100", sft_nodes=2), "image", 1)))
    with serving(cluster, tmp_path, monkeypatch):
        yield cluster


def tuned(tmp_path, maps, rerun="force", **settings):
    """The tuned model's manifest and weights."""
    store, artifact = maps
    outputs = run_step(STEP, tmp_path, store, {**PARAMS, **settings}, {"vlm": VLM}, {"maps": [artifact]}, rerun=rerun)
    manifest = published(outputs, "model", TunedModel)
    folder = materialize(manifest.files, Store(str(store)), tmp_path / f"model-{os.urandom(4).hex()}")
    return manifest, load_file(folder / "model.safetensors")


def test_two_nodes_train_what_one_process_trains(on_two_nodes, maps, tmp_path, monkeypatch):
    manifest, weights = tuned(tmp_path, maps)
    assert [method for method, _ in on_two_nodes.requests if method != "GET"] == ["DELETE", "POST", "DELETE"]
    assert not on_two_nodes.jobs
    monkeypatch.delenv(nodes.MANIFEST)
    alone, alone_weights = tuned(tmp_path, maps)
    assert manifest.key == alone.key  # where it ran is in no key
    assert weights.keys() == alone_weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, alone_weights[name], rtol=1e-3, atol=1e-5)


def test_what_is_remembered_asks_for_no_nodes(on_two_nodes, maps, tmp_path, monkeypatch):
    with monkeypatch.context() as alone:
        alone.delenv(nodes.MANIFEST)
        tuned(tmp_path, maps, max_steps=1)
    tuned(tmp_path, maps, rerun="0", max_steps=1)
    assert on_two_nodes.requests == []


def test_a_workers_error_is_the_steps(on_two_nodes, maps, tmp_path):
    with pytest.raises(ParameterError, match="global_batch=3 for 2 processes"):
        tuned(tmp_path, maps, global_batch=3)
    assert list(on_two_nodes.jobs)  # it stays for its pods' logs
