"""Training on tiny models of both families and real clips: losses, plain fine-tuning, exact resume, the step."""

import json
import math
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoTokenizer

from components.core.artifacts import TunedModel, VlmLine, VlmMaps
from components.core.errors import DataError, ParameterError
from components.core.lines import Lines
from components.core.records import sha256
from components.models.registry import ensure_tiny
from components.models.tuned import materialize
from components.models.vlm.example import collate
from components.models.vlm.model import load_vlm
from components.sft.aligner import Aligner
from components.sft.data import Samples, loaded, order, split
from components.sft.launch import Stop
from components.sft.lines import SharedLines, write_lines
from components.sft.loop import Training, train
from components.sft.loss import response_loss
from components.sft.module import rate
from components.sft.processes import joined
from components.sft.state import ResumeStates
from components.sft.step import STEP
from components.sft.tracking import TrainingLog
from components.store.entries import Store
from components.store.tensors import unpack
from components.store.transfer import original_name
from tests.arithmetic import rounding
from tests.models.vlm.cases import INTERN, NAMES, QWEN, QWEN3
from tests.runner import metrics, published, put_manifest, run_step
from tests.sft.conftest import FAST, lines_of, make_job
from tests.vlm_attention import made


@contextmanager
def opened(job):
    """A training before its first step, alone."""
    with joined(1.0) as processes, closing(Training(job, processes, Stop())) as training:
        yield training


def weights(job):
    model = AutoModelForImageTextToText.from_pretrained(f"{job.out}/model", dtype=torch.float32)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_both_losses_fall(job, name):
    fast = {"max_steps": 40, "global_batch": 3, "lr_llm": 5e-3, "lr_vision": 5e-3}
    # one measurement of the gradients' norms is enough: each takes two passes more
    rows = train(job(name, held_out=0.0, gradient_checkpointing=True, norms_every=100, **fast))
    assert rows[-1]["align"] < 0.8 * rows[1]["align"]
    assert rows[-1]["ar"] < 0.8 * rows[1]["ar"]
    plain = train(job(name, align_weight=0.0, max_steps=1, held_out=0.0))
    assert not [key for row in plain for key in row if "align" in key and key not in ("align_weight", "lr_aligner")]


def plain_loop(one):
    """Fine-tuning of the same samples by hand: only the input tensors and the written rates are the project's."""
    vlm = load_vlm(ensure_tiny(QWEN), torch.float32, "cpu", rows=False)
    vlm.model.train()
    settings = one.settings
    lines, _ = split(SharedLines.open(Path(one.lines)), settings.held_out, one.seed)
    examples = [made.example(vlm, line, Store(one.store)) for line in lines]
    named = dict(vlm.model.named_parameters())
    slow = {name for name in named if ".visual." in name and ".merger." not in name}
    groups = []
    for tower, decays in ((True, True), (True, False), (False, True), (False, False)):
        chosen = [p for n, p in named.items() if (n in slow) == tower and (p.dim() > 1) == decays]
        base = settings.lr_vision if tower else settings.lr_llm
        groups.append({"params": chosen, "weight_decay": 0.1 if decays else 0.0, "base": base})
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)
    sequence = order([1.0] * len(lines), one.seed, range(settings.max_steps * settings.global_batch))
    losses = []
    for step in range(settings.max_steps):
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * 0.5 * (1 + math.cos(math.pi * step / settings.max_steps))
        total = 0.0
        for index in sequence[step * settings.global_batch : (step + 1) * settings.global_batch]:
            batch = vlm.arguments(collate([examples[index]]))
            at = (examples[index].labels[1:] != -100).nonzero().flatten()
            logits = vlm.model(**batch, use_cache=False, logits_to_keep=at).logits
            targets = examples[index].labels[1:][at]
            plain = functional.cross_entropy(logits[0], targets)
            loss = response_loss(logits, targets[None])  # the same number, in the last bit as well
            assert loss.item() == pytest.approx(plain.item(), rel=rounding(len(targets)))
            (loss / settings.global_batch).backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(vlm.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total / settings.global_batch)
    return losses, vlm.model.state_dict()


def test_align_weight_0_is_plain_fine_tuning_to_the_last_bit(job):
    one = job(align_weight=0.0)
    rows = train(one)
    losses, state = plain_loop(one)
    assert [row["ar"] for row in rows[1:]] == pytest.approx(losses, rel=rounding(one.settings.global_batch))
    found = weights(one)
    assert {name for name, value in state.items() if not torch.equal(value, found[name])} == set()
    start = load_vlm(ensure_tiny(QWEN), torch.float32, "cpu", rows=False).model.state_dict()
    assert not any(torch.equal(state[name], value) for name, value in start.items() if value.dim() > 1)
    again = train(job(align_weight=0.0, norms_every=1))  # measuring gradient norms changes nothing
    assert [row["ar"] for row in again[1:]] == [row["ar"] for row in rows[1:]]


def test_six_steps_are_three_resume_three(job, monkeypatch):
    """Stopped after the fifth step, the third is the last that was saved."""
    whole = job()
    rows = train(whole)
    first = job(key="resume", save_every=3)

    def stop(self, row, speed, add=TrainingLog.add):
        if row["step"] == 6:
            raise KeyboardInterrupt
        add(self, row, speed)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            train(first)
    states = ResumeStates(Store(first.store).backend, first.key)
    assert [state.step for state in states.complete()] == [3]
    second = job(key=first.key, save_every=3)
    torch.manual_seed(999)
    assert train(second) == rows
    kept = weights(whole)
    assert all(torch.equal(value, kept[name]) for name, value in weights(second).items())
    assert len({(Path(one.out) / "aligner.safetensors").read_bytes() for one in (whole, second)}) == 1


@pytest.mark.parametrize(("name", "aligner"), [(QWEN, "local"), (INTERN, "none"), (QWEN3, "pointwise")])
def test_the_loss_is_the_frozen_models_distance_times_lambda(job, name, aligner):
    """Before the first step, when every aligner is the identity."""
    with opened(job(name, align_weight=2.5, aligner=aligner, held_out=0.0)) as training:
        lines = [*training.samples.lines][:3]
        losses = [training.module(training.samples[index]) for index in range(len(lines))]
    for line, one in zip(lines, losses, strict=True):
        found = {key: float(value.detach()) for key, value in one.items()}
        assert found["align"] == pytest.approx(line.distance, rel=1e-5)
        assert found["loss"] == pytest.approx(found["ar"] + 2.5 * line.distance, rel=1e-5)


def test_the_log_says_what_was_learned(job):
    one = job(epochs=1, max_steps=None, global_batch=2, held_out=0.34)
    rows = train(one)
    assert [rows[0][name] for name in ("samples", "held_out", "steps")] == [4, 2, 2]
    assert rows[-1]["step"] == 2
    lines, _ = split(SharedLines.open(Path(one.lines)), 0.34, 1)
    own = [unpack(Store(one.store).read(line.prior))["prior"].double() for line in lines]
    normal = [(p / p.mean((1, 2, 3), keepdim=True)).flatten(1) for p in own]
    variance = sum(float(p.var(1, correction=0).mean()) for p in normal) / len(own)
    assert rows[0]["lambda_variance"] == pytest.approx(variance, rel=1e-5)
    assert {"val_ar", "val_align", "val_loss"} <= rows[0].keys() & rows[-1].keys()
    assert {"grad_ar", "grad_align", "grad", "lr_vision", "lr_llm", "lr_aligner", "loss"} <= rows[1].keys()
    assert rows[1]["rows"] > 0
    assert rows[1]["rows_before_response"] == 0  # the words are the response's own
    written = [json.loads(line) for line in (Path(one.out) / "log.jsonl").read_text().splitlines()]
    assert written == rows


def test_contrast_divides_by_the_variance_and_the_gate_multiplies(job):
    variance = train(job(max_steps=1))[0]["prior_variance"]
    scaled = train(job(max_steps=1, align_scale="contrast"))
    assert scaled[0]["lambda_variance"] == pytest.approx(1.0)
    assert scaled[1]["loss"] == pytest.approx(scaled[1]["ar"] + scaled[1]["align"] / variance, rel=1e-5)
    gated = train(job(max_steps=1, gate="confidence"))
    assert gated[1]["align"] == pytest.approx(0.5 * scaled[1]["align"], rel=1e-5)


def test_priors_in_half_precision_train_the_same(job):
    """Which token_selection v3 keeps; those of v2 are in fp32."""
    one, other = job(max_steps=2), job(max_steps=2)
    store, halved = Store(one.store), []
    for line in lines_of(one):
        ref = made.put_work(store, f"half-{line.key}", "prior", prior=unpack(store.read(line.prior))["prior"].half())
        halved.append(line.model_copy(update={"prior": ref}))
    other = other.model_copy(update={"lines": f"{other.out}/half"})
    Path(other.lines).mkdir()
    write_lines(Path(other.lines), halved)
    exact, rounded = train(one), train(other)
    for row, its_row in zip(exact, rounded, strict=True):
        assert its_row == pytest.approx(row, rel=2.0**-11)
    assert rounded[0]["val_align"] != exact[0]["val_align"]


def test_controls_take_the_priors_place(job):
    kinds = ("none", "shuffled", "uniform", "frame_difference")
    losses = {kind: train(job(max_steps=1, prior_control=kind))[0] for kind in kinds}
    assert losses["uniform"]["prior_variance"] == 0
    assert len({row["val_align"] for row in losses.values()}) == 4


def test_a_workers_error_keeps_its_kind_and_remedy():
    class Damaged(Samples):
        def __init__(self):
            pass

        def __getitem__(self, index):
            raise DataError(f"sample {index} has other content", source="the store", remedy="set rerun_token_selection")

    for workers in (0, 1):
        with pytest.raises(DataError, match="sample 7 has other content") as raised:
            next(loaded(Damaged(), [7], workers))
        assert raised.value.remedy == "set rerun_token_selection"


def test_clips_are_dropped_when_they_were_read(job, monkeypatch):
    with opened(job(prior_control="frame_difference")) as training:
        samples, dropped = training.samples, []
    monkeypatch.setattr(samples.store.backend, "release", dropped.append)
    samples[0]
    assert dropped == [samples.lines[0].video.file.path] * 2


def test_a_gpu_without_room_says_what_helps(job, monkeypatch):
    def full(training):
        raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")

    monkeypatch.setattr(Training, "run", full)
    with pytest.raises(ParameterError, match=r"2\.00 GiB") as raised:
        train(job())
    assert "lora" in raised.value.remedy


def test_a_loss_that_is_no_number_stops_the_training(job):
    with pytest.raises(ParameterError, match=r"gradient of step 2 is not finite: its norm is (nan|inf)"):
        train(job(lr_llm=1e30, held_out=0.0, max_steps=6))


def test_order_and_rates():
    sequence = order([1.0] * 5, 3, range(0, 15))
    assert [sorted(sequence[k : k + 5]) for k in (0, 5, 10)] == [list(range(5))] * 3
    assert sequence[:5] != sequence[5:10]
    assert order([1.0] * 5, 3, range(7, 12)) == sequence[7:12]
    assert [rate(step, 10, 0.2) for step in (1, 2, 3)] == [0.5, 1.0, 1.0]
    assert rate(10, 10, 0.2) == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert rate(1, 1, 0.03) == 1.0


def test_weights_lengthen_an_epoch(job):
    for weight in (1.0, 2.0):
        one = job(max_steps=None, epochs=3, held_out=0.0, global_batch=1)
        first, *others = lines_of(one)
        heavy = first.model_copy(update={"sample": first.sample.model_copy(update={"weight": weight})})
        one = one.model_copy(update={"lines": f"{one.out}/weighted"})
        Path(one.lines).mkdir()
        write_lines(Path(one.lines), [*others, heavy])
        length = len(others) + int(weight)
        with opened(one) as training:
            assert training.total == 3 * length
            assert order(training.samples.lines.weights, one.seed, range(length)).count(0) == weight


# The step -------------------------------------------------------------------------------------------------------------


def run(world, tmp_path, shards=(0, 1), align_weight=1.0, rerun="0", **params):
    folder, found = world
    params = {**FAST, "max_steps": 2, **params}
    shared, inputs = {"vlm": QWEN, "align_weight": align_weight}, {"maps": [found[QWEN][k] for k in shards]}
    return run_step(STEP, tmp_path, folder / "store", params, shared, inputs, rerun)


def test_step_saves_a_folder_that_opens_and_is_remembered(world, tmp_path, monkeypatch):
    outputs = run(world, tmp_path)
    model, store = published(outputs, "model", TunedModel), Store(str(world[0] / "store"))
    folder = materialize(model.files, store, tmp_path / "opened")
    opened = AutoModelForImageTextToText.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    source = {file.name for file in ensure_tiny(QWEN).iterdir()}
    assert {original_name(ref) for ref in model.files} >= source
    again = load_vlm(folder, torch.float32, "cpu", rows=False)
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in opened.state_dict().items())
    Aligner().load_state_dict(unpack(store.read(model.aligner[0])))
    assert "<svg" in outputs["curve"].read_text()
    assert ResumeStates(store.backend, model.key).complete() == []
    shards = [published({"maps": path}, "maps", VlmMaps) for path in world[1][QWEN]]
    assert (model.samples, model.videos, model.maps) == (6, 6, [shard.digest for shard in shards])
    monkeypatch.setattr("components.sft.loop.train", lambda job: pytest.fail("trained again"))
    # neither the shards' order nor operational parameters make new work
    second = run(world, tmp_path, shards=(1, 0), save_every=7)
    assert (second["model"] / "manifest.json").read_bytes() == (outputs["model"] / "manifest.json").read_bytes()
    assert metrics(second)["share_remembered"] == 1.0
    weighted = []
    for k, shard in enumerate(shards):
        heavier = [
            line.model_copy(update={"sample": line.sample.model_copy(update={"weight": 2.0})}) for line in shard.lines
        ]
        made_up = shard.model_copy(update={"lines": Lines(VlmLine, heavier)})
        weighted.append(put_manifest(tmp_path / f"weighted-{k}", made_up, world[0] / "store"))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        run((world[0], {QWEN: weighted}), tmp_path)


def test_a_retry_of_a_forced_training_goes_on_from_its_own_states_alone(world, tmp_path, monkeypatch):
    """Those of another nonce are deleted once, as it begins; the weights are those of a training in one go."""
    steps, step, states = [], Training._step, ResumeStates(Store(str(world[0] / "store")).backend, "")
    monkeypatch.setattr(Training, "_step", lambda self, at, stream: steps.append(at) or step(self, at, stream))

    def forced(nonce):
        steps.clear()
        return published(run(world, tmp_path, rerun=nonce, max_steps=6, save_every=2), "model", TunedModel)

    def killed(nonce):
        def dies(self, row, speed, add=TrainingLog.add):
            while row["step"] == 5:  # when a state is whole
                states.prefix = f"sft/{whole.key}/resume/{sha256(nonce.encode())[:16]}"
                if states.complete():
                    raise KeyboardInterrupt
            add(self, row, speed)

        with monkeypatch.context() as patch:
            patch.setattr(TrainingLog, "add", dies)
            with pytest.raises(KeyboardInterrupt):
                forced(nonce)
        return {item.path.split("/")[3] for item in states.backend.walk(f"sft/{whole.key}/resume")}

    whole = forced("force-whole")
    before, own = killed("force-before"), killed("force-own")
    assert steps == [1, 2, 3, 4, 5]  # not from a state of force-before
    assert len(before) == len(own) == 1
    assert before != own
    done = forced("force-own")
    assert steps in ([3, 4, 5, 6], [5, 6])
    assert (done.files, done.aligner, done.log) == (whole.files, whole.aligner, whole.log)
    assert list(states.backend.walk(f"sft/{whole.key}/resume")) == []
    assert forced("force-own") == done
    assert steps == []


def test_long_samples_are_left_out_and_listed(world, tmp_path, monkeypatch):
    lines = lines_of(make_job(world, tmp_path / "job"))
    lengths = sorted(line.tokens for line in lines)
    most, jobs = lengths[-2], []
    kept = [line for line in lines if line.tokens <= most]

    def watched(job):
        jobs.append((job, lines_of(job)))
        train(job)

    monkeypatch.setattr("components.sft.loop.train", watched)
    model = published(run(world, tmp_path / "out", max_tokens=most), "model", TunedModel)
    ((job, trained),) = jobs
    assert trained == kept
    assert not Path(job.lines).exists()
    assert (model.samples, model.videos) == (len(kept), len({line.video.id for line in kept}))
    left = {item.unit: item.reason for item in model.left_out}
    assert left == {line.called: f"{line.tokens} tokens, max_tokens={most}" for line in lines if line.tokens > most}
    with pytest.raises(DataError, match="no samples to train on"):
        run(world, tmp_path / "none", max_tokens=1)


def test_adapters_lie_beside_the_merged_model(world, tmp_path):
    """Opened by plain peft on the untouched model they give the tuned one."""
    outputs = run(world, tmp_path, tuning="lora", lora_rank=2, lora_lr=1e-2)
    model, store = published(outputs, "model", TunedModel), Store(str(world[0] / "store"))
    merged = AutoModelForImageTextToText.from_pretrained(materialize(model.files, store, tmp_path / "merged"))
    base = AutoModelForImageTextToText.from_pretrained(ensure_tiny(QWEN))
    opened = PeftModel.from_pretrained(base, materialize(model.adapter, store, tmp_path / "adapter"))
    found = opened.merge_and_unload().state_dict()
    assert all(torch.allclose(value, found[name], rtol=0, atol=1e-6) for name, value in merged.state_dict().items())


def test_step_without_alignment_has_no_aligner(world, tmp_path):
    outputs = run(world, tmp_path, align_weight=0.0)
    assert published(outputs, "model", TunedModel).aligner == []
    assert "λ = 0" in outputs["curve"].read_text()


def test_step_refuses_what_does_not_fit(world, tmp_path):
    with pytest.raises(DataError, match="shards"):
        run(world, tmp_path, shards=(0,))
    folder, found = world
    with pytest.raises(ParameterError, match="not of this model"):
        run_step(STEP, tmp_path, folder / "store", FAST, {"vlm": INTERN}, {"maps": found[QWEN]})
