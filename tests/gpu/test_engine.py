"""The training's engine on a GPU: bfloat16 losses, float32 steps as on a CPU, states that either reads of the other.

Trainings that are compared run in processes of their own, so that one can be shown a machine without a GPU.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from components.core.artifacts import VlmMaps
from components.core.records import canonical_json
from components.models.registry import ensure_tiny
from components.models.vlm.model import load_vlm
from components.sft.launch import Stop
from components.sft.lines import write_lines
from components.sft.loop import Job, Training
from components.sft.module import MotionSFT
from components.sft.processes import joined
from components.sft.settings import SftSettings
from components.vlm_attention.step import STEP as VLM_ATTENTION
from tests.arithmetic import rounding
from tests.command import python
from tests.models.vlm.cases import NAMES
from tests.runner import published, run_step
from tests.vlm_attention import made

pytestmark = pytest.mark.gpu
TUNINGS = ("full", "lora")
STEPS, SAVED, RATE = 4, 2, 1e-3
TERMS = 4000  # lengths of the sums on a loss' way through a tiny model, over all layers
HIDDEN = {"gpu": {}, "cpu": {"CUDA_VISIBLE_DEVICES": ""}}


@pytest.fixture(scope="module")
def job(made_priors, tmp_path_factory):
    """A training on made-up clips; each has a folder of its own, and resumes what has its key."""
    folder, _, artifact = made_priors
    lines = {}
    for name in NAMES:
        scalars, params = {"vlm": name, "shard": "0/1"}, {"viewing": made.VIEWING}
        work = (VLM_ATTENTION, folder, folder / "store", params, scalars, {"priors": artifact})
        lines[name] = published({"maps": run_step(*work, form="frozen")["maps"]}, "maps", VlmMaps).lines

    def make(key, name=NAMES[0], align_weight=1.0, **settings):
        rates = {"lr_vision": RATE, "lr_llm": RATE, "lora_lr": RATE, "aligner_lr": RATE, "warmup": 0.0}
        length = {"max_steps": STEPS, "save_every": SAVED, "global_batch": 2, "held_out": 0.0}
        chosen = {"viewing": made.VIEWING, **rates, **length, **settings}
        out = tmp_path_factory.mktemp("out")
        fields = {"vlm": str(ensure_tiny(name)), "store": str(folder / "store"), "out": str(out), "seed": 1}
        write_lines(out, lines[name])
        of = {"key": key, "lines": str(out), "align_weight": align_weight, **fields}
        return Job(settings=SftSettings.model_validate(chosen), **of)

    return make


def train(where, jobs):
    """Train one after another in a process of its own; return the logs."""
    files = []
    for one in jobs:
        files.append(Path(one.out) / "job.json")
        files[-1].write_bytes(canonical_json(one.model_dump(mode="json")))
    python("-m", "tests.gpu.training", *files, **HIDDEN[where])
    return [[json.loads(row) for row in (Path(one.out) / "log.jsonl").read_text().splitlines()] for one in jobs]


@pytest.fixture(scope="module")
def logs(job):
    """Logs of whole trainings by (where, tuning), and of those that go on from the other place's state."""
    found = {}
    for where in HIDDEN:
        jobs = [job(f"{where}-{tuning}", tuning=tuning, precision="fp32") for tuning in TUNINGS]
        found |= {(where, tuning): rows for tuning, rows in zip(TUNINGS, train(where, jobs), strict=True)}
    for where, writer in (("gpu", "cpu"), ("cpu", "gpu")):
        jobs = [job(f"{writer}-{tuning}", tuning=tuning, precision="fp32") for tuning in TUNINGS]
        resumed = train(where, jobs)
        found |= {(f"{writer}, then {where}", tuning): rows for tuning, rows in zip(TUNINGS, resumed, strict=True)}
    return found


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("name", NAMES)
def test_first_losses_in_bfloat16_are_a_plain_models(job, name, tuning):
    """The same checkpoint in bfloat16, neither wrapped nor with low-rank updates, which start at 0."""
    one = job(f"bf16-{name}-{tuning}", name, tuning=tuning, precision="bf16")
    with joined(1.0) as processes:
        training = Training(one, processes, Stop())
        items = [training.samples[index] for index in range(3)]
        training.module.model.train()
        losses = [training.module(item) for item in items]
        sharded = next(iter(training.module.model.parameters()))
        device = sharded.device
        training.close()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert sharded.dtype == (torch.float32 if tuning == "full" else torch.bfloat16)
    plain = MotionSFT(load_vlm(ensure_tiny(name), torch.bfloat16, device), one.settings, 1.0).to(device)
    exact = MotionSFT(load_vlm(ensure_tiny(name), torch.float32, device), one.settings, 1.0).to(device)
    with torch.no_grad():
        for item, found in zip(items, losses, strict=True):
            expected, rounded = plain(item), 0.0
            for key in ("ar", "align"):
                difference = abs(float(found[key]) / float(expected[key]) - 1)
                print(f"{name}, {tuning}, {key}: differs by {difference:.1e}")
                assert difference <= torch.finfo(torch.bfloat16).eps
                rounded += abs(float(expected[key]) - float(exact(item)[key]))
            assert rounded > 0  # it is bfloat16 that both compute in


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("other", ["gpu", "cpu, then gpu", "gpu, then cpu"])
def test_steps_in_float32_are_those_of_a_cpu(logs, other, tuning):
    """Losses of every step, whoever wrote and read the state after the second.

    A loss is off by the rounding of its own sums, and by that of the updates before it. AdamW moves each of n weights
    by about the rate whatever its gradient's size, so what an update is off by is at most the rate times its gradient's
    relative error; over weights with gradient g the loss then is off by rate · Σ |g| · error ≤ rate · √n · ‖g‖ · error.
    """
    expected, found = logs["cpu", tuning], logs[other, tuning]
    assert [row["step"] for row in found] == list(range(STEPS + 1))
    weights = 300_000  # of the tiny twin and the aligner
    for step in range(1, STEPS + 1):
        ours, theirs = found[step], expected[step]
        grown = sum(RATE * math.sqrt(weights) * expected[k]["grad"] for k in range(1, step))
        for key in ("loss", "ar", "align"):
            difference = abs(ours[key] - theirs[key])
            print(f"{other}, {tuning}, step {step}: {key} differs by {difference:.1e}, grad {theirs['grad']:.2g}")
            assert difference <= rounding(TERMS, theirs[key] + grown)
    assert found[-1]["loss"] < found[1]["loss"]


def test_states_were_read(logs):
    """A training that read none would begin again, and log the same."""
    for tuning in TUNINGS:
        for where in HIDDEN:
            other = "cpu" if where == "gpu" else "gpu"
            assert logs[f"{other}, then {where}", tuning][: SAVED + 1] == logs[other, tuning][: SAVED + 1]
