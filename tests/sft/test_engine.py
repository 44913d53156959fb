"""The engine that eight GPUs run, on gloo processes: the same numbers in any number of them, and from any state.

`make test` runs rows that hold every pair of factors, `make test-engine` (marker `engine`) all of them.
"""

import json
import subprocess
import sys
from contextlib import closing
from itertools import combinations, product
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from components.kubeflow.tree import ROOT
from components.models.registry import ensure_tiny
from components.models.vlm.example import collate
from components.models.vlm.model import load_vlm
from components.sft.launch import Stop
from components.sft.loop import Training
from components.sft.processes import joined
from components.store.entries import Store
from tests.models.vlm.cases import INTERN, NAMES, QWEN, QWEN3
from tests.s3_server import s3_server
from tests.sft.conftest import make_job

# AdamW at its first steps moves a weight by the rate whatever the gradient's size, so a rounding error of a gradient
# near 0 moves it by a share of the rate
STEADY = {"global_batch": 4, "lr_vision": 2e-4, "lr_llm": 2e-4, "lora_lr": 2e-3, "gradient_checkpointing": True}
SHORT = {"max_steps": 5, "norms_every": 4, "eval_every": 4}  # a state is saved at step 2 or 3
BF16 = 2.0**-8


class Case(NamedTuple):
    """Factors of a sharded training."""

    count: int
    name: str
    tuning: str
    align_weight: float
    aligner: str
    precision: str


class Resumed(NamedTuple):
    """Factors of a state: who wrote it, who reads it, what is trained, where it is kept, and how the writer ended."""

    write: int
    read: int
    tuning: str
    store: str
    end: str


ALL_CASES = [
    Case(*one)
    for one in product((2, 4), NAMES, ("full", "lora"), (0.0, 1.0), ("local", "pointwise", "none"), ("fp32", "bf16"))
]
CASES = [
    Case(4, QWEN, "full", 1.0, "local", "fp32"),
    Case(2, INTERN, "full", 1.0, "local", "bf16"),
    Case(2, QWEN3, "full", 1.0, "pointwise", "bf16"),
    Case(4, INTERN, "lora", 0.0, "none", "bf16"),
    Case(4, QWEN, "lora", 1.0, "pointwise", "bf16"),
    Case(4, QWEN3, "lora", 0.0, "local", "bf16"),
    Case(2, QWEN, "full", 0.0, "none", "bf16"),
    Case(2, INTERN, "full", 0.0, "pointwise", "fp32"),
    Case(2, QWEN3, "lora", 1.0, "none", "fp32"),
    Case(2, QWEN3, "full", 1.0, "local", "fp32"),  # beyond the pairs: mergers in several places
]
ALL_RESUMED = [
    Resumed(*one) for one in product((1, 2, 4), (1, 2, 4), ("full", "lora"), ("file", "s3"), ("kill", "term"))
]
RESUMED = [
    Resumed(1, 1, "full", "file", "kill"),
    Resumed(1, 2, "lora", "s3", "term"),
    Resumed(1, 4, "full", "s3", "kill"),
    Resumed(2, 1, "lora", "file", "term"),
    Resumed(2, 2, "full", "s3", "kill"),
    Resumed(2, 4, "lora", "file", "kill"),
    Resumed(4, 1, "full", "s3", "term"),
    Resumed(4, 2, "full", "file", "kill"),
    Resumed(4, 4, "lora", "s3", "term"),
    Resumed(1, 1, "lora", "s3", "kill"),
]


@pytest.mark.parametrize(("rows", "every"), [(CASES, ALL_CASES), (RESUMED, ALL_RESUMED)])
def test_the_rows_hold_every_pair_of_factors(rows, every):
    for first, second in combinations(range(len(every[0])), 2):
        missing = {(row[first], row[second]) for row in every} - {(row[first], row[second]) for row in rows}
        assert not missing, (first, second)


class Trainings:
    """Runs trainings in forked processes, each once, and reads what they left."""

    def __init__(self, world, folder):
        self.world, self.folder, self.plan, self.jobs = world, folder, [], {}

    def add(self, tag, count, end=None, at=0, slow=0, after=(), **settings):
        if tag not in self.jobs:
            job = make_job(self.world, self.folder / tag, **{**STEADY, **settings})
            (self.folder / f"{tag}.json").write_text(job.model_dump_json())
            self.jobs[tag] = len(self.plan)
            one = {"job": str(self.folder / f"{tag}.json"), "count": count, "end": end, "at": at, "slow": slow}
            self.plan.append(one | {"after": [self.jobs[earlier] for earlier in after]})

    def run(self):
        (self.folder / "plan.json").write_text(json.dumps(self.plan))
        command = [sys.executable, "-m", "tests.sft.forked", str(self.folder / "plan.json")]
        with (self.folder / "said.txt").open("w") as said:
            subprocess.run(command, check=True, cwd=ROOT, stdout=said, stderr=said)
        self.codes = json.loads((self.folder / "plan.codes").read_text())

    def ended(self, tag):
        return self.codes[self.jobs[tag]]

    def rows(self, tag):
        log = self.folder / tag / "log.jsonl"
        assert log.is_file(), (self.folder / "said.txt").read_text()[-5000:]
        return [json.loads(line) for line in log.read_text().splitlines()]

    def weights(self, tag):
        found = {}
        for file in [*(self.folder / tag / "model").glob("*.safetensors"), self.folder / tag / "aligner.safetensors"]:
            if file.is_file():
                found |= load_file(file)
        return {name: value.float() for name, value in found.items()}


def close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    worst = max((float((value - theirs[name]).abs().max()), name) for name, value in ours.items())
    assert worst[0] <= tolerance, worst


def same_log(ours, theirs, tolerance):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=1e-9)


# In any number of processes -------------------------------------------------------------------------------------------


def run_cases(world, folder, cases):
    found = Trainings(world, folder)
    for case in cases:
        for count in (1, case.count):
            settings = case._asdict() | {"max_steps": 6, "norms_every": 6, "eval_every": 6}
            settings.pop("count")
            found.add(tag_of(case, count), count, **settings)
    found.run()
    return found


def tag_of(case, count):
    return "-".join([str(count), *map(str, case[1:])])


def check_case(found, case):
    """In fp32 the trained weights and the log; in bf16, where six updates drift apart, what was computed before any."""
    one, many = tag_of(case, 1), tag_of(case, case.count)
    ours, theirs = found.rows(many), found.rows(one)
    if case.precision == "fp32":
        same_log(ours, theirs, 1e-5)
        close(found.weights(many), found.weights(one), 1e-5)
    else:
        same_log(ours[:1], theirs[:1], BF16)
        for name in ("ar", "loss", *(("align",) if case.align_weight else ())):
            assert ours[1][name] == pytest.approx(theirs[1][name], rel=BF16)
        close(found.weights(many), found.weights(one), 6 * 2 * 2e-3)  # no update is larger than the rate


@pytest.fixture(scope="module")
def subset(world, tmp_path_factory):
    return run_cases(world, tmp_path_factory.mktemp("cases"), CASES)


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    return run_cases(world, tmp_path_factory.mktemp("all-cases"), ALL_CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_number_of_processes_trains_the_same(subset, case):
    check_case(subset, case)


@pytest.mark.engine
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_any_number_of_processes_trains_the_same_in_all_cases(whole, case):
    check_case(whole, case)


@pytest.mark.parametrize("name", NAMES)
def test_the_bf16_forward_pass_is_a_plain_bf16_models(world, tmp_path, name):
    """The policy against transformers' own model in bf16, to the last bit; the masters stay fp32."""
    job = make_job(world, tmp_path / "out", name, align_weight=0.0, precision="bf16")
    with joined(1.0) as processes, closing(Training(job, processes, Stop())) as training:
        item = training.samples[0]
        ours = training.module(item)["ar"].item()
        assert {one.dtype for one in training.engine.trained} == {torch.float32}
    vlm = load_vlm(ensure_tiny(name), torch.bfloat16, "cpu", rows=False)
    vlm.model.train()
    batch, labels = vlm.arguments(collate([item.example])), item.example.labels
    logits = vlm.model(**batch, use_cache=False).logits[0, :-1].float()
    assert functional.cross_entropy(logits, labels[1:]).item() == pytest.approx(ours, rel=1e-6)


# From any state -------------------------------------------------------------------------------------------------------


def run_resumed(world, folder, rows):
    """Write each state under the key of its row, then go on from it."""
    store, bucket = world[0] / "store", "minio://states/store"
    with s3_server("states"):
        remote = Store(bucket).backend
        for file in (path for path in store.rglob("*") if path.is_file() and "sft" not in path.parts):
            remote.put_file(file.relative_to(store).as_posix(), file)
        found = Trainings(world, folder)
        # the first process uploads for longer than the others' patience: TensorBoard's files, then a state's
        short = {"collective_timeout": 0.09, "store_patience": 0.01}  # minutes, added up
        found.add("patient", 2, slow=8, max_steps=5, save_every=2, eval_every=100, **short)
        for tuning in ("full", "lora"):
            found.add(f"whole-{tuning}", 1, tuning=tuning, **SHORT)
        for row in rows:
            key = "-".join(map(str, row))
            place = {"tuning": row.tuning, **SHORT, "key": f"{folder.name}-{key}"}
            place |= {"store": bucket if row.store == "s3" else None}
            every = 2 if row.end == "kill" else 100
            found.add(f"write-{key}", row.write, row.end, 3, save_every=every, **place)
            found.add(f"read-{key}", row.read, after=[f"write-{key}"], **place)
        found.run()
    return found


def check_resumed(found, row):
    """Bit for bit, with its log, where one process goes on from its own state."""
    key = "-".join(map(str, row))
    assert set(found.ended(f"write-{key}")) == ({-9} if row.end == "kill" else {75})
    ours, whole = f"read-{key}", f"whole-{row.tuning}"
    alone = row.write == row.read == 1
    same_log(found.rows(ours), found.rows(whole), 0 if alone else 1e-5)
    close(found.weights(ours), found.weights(whole), 0 if alone else 1e-5)
    said = (found.folder / "said.txt").read_text()
    assert f"resuming after step {2 if row.end == 'kill' else 3}, saved by {row.write} processes" in said


@pytest.fixture(scope="module")
def resumed(world, tmp_path_factory):
    return run_resumed(world, tmp_path_factory.mktemp("resumed"), RESUMED)


@pytest.fixture(scope="module")
def all_resumed(world, tmp_path_factory):
    return run_resumed(world, tmp_path_factory.mktemp("all-resumed"), ALL_RESUMED)


@pytest.mark.parametrize("row", RESUMED, ids=str)
def test_any_number_of_processes_goes_on_from_any_state(resumed, row):
    check_resumed(resumed, row)


def test_an_upload_may_take_longer_than_a_collective(resumed):
    assert resumed.ended("patient") == [0, 0]
    assert len(resumed.rows("patient")) == 6


@pytest.mark.engine
@pytest.mark.parametrize("row", ALL_RESUMED, ids=str)
def test_any_number_of_processes_goes_on_from_all_states(all_resumed, row):
    check_resumed(all_resumed, row)
