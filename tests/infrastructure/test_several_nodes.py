"""SFT on two nodes as Kubeflow Trainer starts them: processes with its variables stand for the pods, the rest is real.

The step creates the TrainJob over TLS, both nodes train one tiny model (gloo), the step keeps the result. It needs no
service.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from components.core.artifacts import TunedModel
from components.core.errors import ParameterError
from components.kubeflow.scheduling import Profile
from components.kubeflow.trainjob import train_job
from components.kubeflow.tree import ROOT
from components.models.tuned import materialize
from components.sft import nodes
from components.sft.loop import train
from components.sft.state import ResumeStates
from components.sft.step import STEP
from components.store.entries import Store
from components.vlm_attention.step import STEP as VLM_ATTENTION
from tests.runner import published, run_step
from tests.s3_server import s3_server
from tests.sft.conftest import make_job, make_world
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


def tuned(tmp_path, maps, rerun="force-nodes", **settings):
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
    alone, alone_weights = tuned(tmp_path, maps, rerun="force-alone")
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


# Two nodes that share the job's folder and the store, and no TMPDIR ---------------------------------------------------


def node(job, rank, port, scratch):
    """A node's torchrun in a mount namespace of its own, where TMPDIR is a file system that nobody else sees."""
    scratch.mkdir(exist_ok=True)
    inside = f"mount -t tmpfs tmpfs {scratch} && cp {job} {scratch}/job.json && exec env TMPDIR={scratch} "
    inside += f"{sys.executable} -m torch.distributed.run --nnodes 2 --node-rank {rank} --nproc-per-node 1 "
    inside += f"--master-addr 127.0.0.1 --master-port {port} -m components.sft.loop {scratch}/job.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(["unshare", "--mount", "sh", "-c", inside], env=environment, start_new_session=True)


def on_two(job, tmp_path, until=None):
    """Run a job on both nodes to its end, or kill both when `until` holds."""
    file = tmp_path / f"{job.key}.json"
    file.write_text(job.model_dump_json())
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    nodes_ = [node(file, rank, port, tmp_path / f"scratch-{rank}") for rank in range(2)]
    try:
        while until is not None and not until():
            assert all(process.poll() is None for process in nodes_)
            time.sleep(0.1)
        if until is None:
            assert [process.wait() for process in nodes_] == [0, 0]
    finally:
        for process in nodes_:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_killed_training_goes_on_from_an_s3_store(made_priors, tmp_path_factory, tmp_path):
    world = make_world(made_priors)
    settings = {"max_steps": 6, "save_every": 2, "key": "two-nodes", "global_batch": 2}
    store, bucket = world[0] / "store", "minio://states/store"
    with s3_server("states"):
        remote = Store(bucket)
        for file in (path for path in store.rglob("*") if path.is_file()):
            remote.backend.put_file(file.relative_to(store).as_posix(), file)
        states = ResumeStates(remote.backend, "two-nodes")
        on_two(make_job(world, tmp_path / "killed", store=bucket, **settings), tmp_path, until=states.complete)
        assert not (tmp_path / "killed" / "log.jsonl").exists()
        first = states.complete()[0].step
        resumed = make_job(world, tmp_path / "resumed", store=bucket, **settings)
        on_two(resumed, tmp_path)
    alone = train(make_job(world, tmp_path / "alone", **settings | {"key": "alone"}))
    rows = [json.loads(line) for line in (tmp_path / "resumed" / "log.jsonl").read_text().splitlines()]
    assert first in (2, 4)
    assert [row["step"] for row in rows] == list(range(7))
    assert [row["loss"] for row in rows[1:]] == pytest.approx([row["loss"] for row in alone[1:]], rel=1e-5)
