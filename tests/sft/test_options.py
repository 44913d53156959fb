"""What a trainer is asked for: parts that are trained, low-rank updates, the best weights, an end in time, no NaN."""

import errno
import json
import math
import re
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from components.core.errors import ParameterError, TryAgainError
from components.models.registry import ensure_tiny
from components.models.vlm.model import load_vlm
from components.sft.launch import Stop
from components.sft.loop import Training, train
from components.sft.module import unwrapped
from components.sft.processes import joined
from components.sft.state import ResumeStates, read_tensors
from components.store.entries import Store
from components.store.file import FileBackend
from tests.models.vlm.cases import NAMES, QWEN

PARTS = ("vision", "merger", "llm")


@contextmanager
def opened(job):
    with joined(1.0) as processes, closing(Training(job, processes, Stop())) as training:
        yield training


def tuned(job):
    return AutoModelForImageTextToText.from_pretrained(f"{job.out}/model", dtype=torch.float32).state_dict()


def states(job):
    return ResumeStates(Store(job.store).backend, job.key)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("train_only", [["llm"], ["vision"], ["merger", "vision"]])
def test_a_frozen_part_has_neither_gradient_nor_optimizer_state(job, name, train_only):
    with opened(job(name, train=train_only)) as training:
        item = training.samples[0]
        training.module(item)["loss"].backward()
        training.engine.average()
        training.engine.update(training.engine.gradient_norm(), 1.0)
        part = training.module.vlm.part
        trained = {part(name) for name in training.engine.weights() if name.startswith("model.")}
        moved = {part(name) for name in training.engine.moments() if name.startswith("model.")}
        gradients = {part(unwrapped(n)) for n, one in training.module.model.named_parameters() if one.requires_grad}
    assert trained == moved == gradients == set(train_only)


@pytest.mark.parametrize("train_only", [["llm"], ["vision"]])
def test_frozen_weights_stay_as_they_were(job, train_only):
    one = job(train=train_only, max_steps=2)
    rows = train(one)
    assert {name for name in rows[1] if name.startswith("lr_")} == {
        "lr_aligner",
        *(f"lr_{part}" for part in train_only),
    }
    vlm = load_vlm(ensure_tiny(QWEN), torch.float32, "cpu", rows=False)
    before, after = vlm.model.state_dict(), tuned(one)
    changed = {vlm.part(name) for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == set(train_only)


def test_lora_has_its_own_rate_and_layers(job):
    one = job(tuning="lora", lora_rank=2, lora_targets=["q_proj", "down_proj"], max_steps=3, lora_lr=1e-2, lr_llm=0.0)
    rows = train(one)
    assert {name: rows[1][name] for name in rows[1] if name.startswith("lr_")} == {"lr_lora": 1e-2, "lr_aligner": 1e-4}
    before, after = load_vlm(ensure_tiny(QWEN), torch.float32, "cpu", rows=False).model.state_dict(), tuned(one)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "down_proj"}
    assert not any("visual" in name for name in changed)
    with pytest.raises(ParameterError, match="no such layer") as raised:
        train(job(tuning="lora", lora_targets=["query"]))
    assert "q_proj" in raised.value.remedy


def test_lora_alpha_scales_the_updates(job):
    """At the first step B is 0 and only B moves, by the rate, so the merged change is in proportion to alpha."""
    changes = []
    for alpha in (4.0, 8.0):
        one = job(tuning="lora", lora_rank=2, lora_alpha=alpha, max_steps=1, lora_lr=1e-3, align_weight=0.0)
        train(one)
        before, after = load_vlm(ensure_tiny(QWEN), torch.float32, "cpu", rows=False).model.state_dict(), tuned(one)
        name = next(name for name in after if name.endswith("layers.0.self_attn.q_proj.weight"))
        changes.append(after[name] - before[name])
    assert torch.allclose(changes[1], 2 * changes[0], rtol=0, atol=2e-3 * float(changes[1].abs().max()))


def test_dropout_follows_from_the_samples_place(job):
    """The same in every run, other for another sample, and gone in validation."""
    settings = {"tuning": "lora", "lora_rank": 2, "lora_lr": 1e-2, "lora_dropout": 0.5, "max_steps": 3}
    first, again, without = (
        train(job(**settings)),
        train(job(**settings)),
        train(job(**settings | {"lora_dropout": 0.0})),
    )
    assert first == again
    assert first[3]["ar"] != without[3]["ar"]
    assert first[0]["val_ar"] == without[0]["val_ar"]


def test_a_state_of_low_rank_updates_holds_nothing_of_the_base(job):
    one = job(tuning="lora", lora_rank=2, max_steps=3, save_every=2)
    train(one)
    (state,) = states(one).complete()
    index = json.loads(Store(one.store).backend.get(f"{state.folder}/index.json"))
    assert all(name.startswith("aligner.") or ".lora_" in name for name in index["tensors"])
    assert {name.rpartition(":")[2] for name in index["tensors"] if ":" in name} == {"exp_avg", "exp_avg_sq"}


def test_full_scratch_is_said_with_its_bytes(job, monkeypatch):
    """Exit 75: a retry with more space goes on."""
    write = Path.write_bytes

    def full(path, data):
        if path.suffix == ".safetensors" and path.name.startswith("part-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TryAgainError, match=r"no space left while writing part-0000") as raised:
        train(job(max_steps=3, save_every=2))
    assert re.search(r"needed \d+ bytes more", raised.value.remedy)
    scratch = Path(raised.value.source.removeprefix("scratch "))
    assert scratch.parent.name.startswith("states-")
    assert not scratch.parent.exists()


def test_scratch_is_left_empty_and_no_thread_stays(job, tmp_path, monkeypatch):
    """By a training that ends, and by one that saved nothing and that nobody closed."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with joined(1.0) as processes:
        Training(job(), processes, Stop()).log.close()
    assert [*scratch.glob("states-*")] == []
    one = job(max_steps=3, save_every=2)
    train(one)
    assert [state.step for state in states(one).complete()] == [2]
    assert [*scratch.glob("states-*")] == []
    until = time.monotonic() + 10
    while any(thread.name == "state-upload" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_speed_lies_beside_tensorboards_files_and_not_in_the_log(job):
    one = job(max_steps=2, peak_tflops=1.0)
    rows = train(one)
    kept = Store(one.store).backend.get(f"sft/{one.key}/tensorboard/speed.jsonl")
    speeds = [json.loads(line) for line in kept.splitlines()]
    assert [speed.pop("step") for speed in speeds] == [1, 2]
    names = {"samples_per_second", "tokens_per_second", "data_wait_share", "peak_memory_gib", "mfu"}
    assert all(speed.keys() == names and min(speed.values()) >= 0 for speed in speeds)
    assert all(0 < speed["mfu"] < 1 and speed["data_wait_share"] < 1 for speed in speeds)
    assert not names & {name for row in rows for name in row}


def test_the_base_of_low_rank_updates_is_bf16_and_they_are_fp32(job):
    with opened(job(tuning="lora", precision="bf16")) as training:
        kinds = {one.requires_grad: set() for one in training.module.parameters()}
        for one in training.module.parameters():
            kinds[one.requires_grad].add(one.dtype)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}


def curve(monkeypatch, losses):
    """Let validation give these losses, one after the other."""
    given = iter(losses)
    monkeypatch.setattr(Training, "_validate", lambda training: {"val_loss": next(given), "val_ar": 1.0})


def test_the_best_weights_are_kept(job, monkeypatch):
    """Those after step 2, which a state holds."""
    losses, steps = [9.0, 3.0, 1.0, 2.0, 4.0], {"max_steps": 4, "eval_every": 1, "norms_every": 50}
    curve(monkeypatch, losses)
    best, last = job(**steps, keep="best"), job(**steps, save_every=2)
    train(best)
    curve(monkeypatch, losses)
    train(last)
    (state,) = states(last).complete()
    assert state.step == 2
    with opened(job(**steps)) as training:
        parts = training.engine.weights()
        read_tensors(training.store.backend, state, parts, training.processes)
        after_two = {name.removeprefix("model."): one.values.clone() for name, one in parts.items()}
    kept, final = tuned(best), tuned(last)
    same = {name: torch.equal(kept[name].flatten(), value) for name, value in after_two.items() if name in kept}
    assert all(same.values())
    assert len(same) > 50
    assert not any(torch.equal(kept[name], final[name]) for name in same if kept[name].dim() > 1)


def test_states_are_saved_while_the_weights_get_ever_better(job, monkeypatch):
    """Though the best weights are still on their way to the store."""
    put_file = FileBackend.put_file
    monkeypatch.setattr(FileBackend, "put_file", lambda *where: (time.sleep(0.2), put_file(*where)))
    curve(monkeypatch, [9.0, 5.0, 4.0, 3.0, 2.0])
    one = job(max_steps=4, eval_every=1, save_every=2, keep="best", norms_every=50)
    train(one)
    assert [state.step for state in states(one).complete()] == [2]


def test_a_training_that_no_longer_learns_ends(job, monkeypatch):
    curve(monkeypatch, [9.0, 5.0, 6.0, 4.0, 4.5, 4.4, 3.0, 2.0])
    rows = train(job(max_steps=7, eval_every=1, patience=2, norms_every=50))
    assert rows[-1]["step"] == 5


def test_validation_is_bounded_in_samples(job):
    rows = train(job(max_steps=1, held_out=0.5, val_samples=2))
    assert rows[0]["held_out"] == 2


# Gradients that are not finite ----------------------------------------------------------------------------------------


def poison(monkeypatch, at):
    """Put NaN into one element of one gradient at step `at`."""
    backward = Training._backward

    def poisoned(training, step, items, which):
        found = backward(training, step, items, which)
        if step == at:
            next(one for one in training.engine.trained if one.grad is not None).grad.view(-1)[0] = math.nan
        return found

    monkeypatch.setattr(Training, "_backward", poisoned)


@pytest.mark.parametrize("at", [2, 4, 5], ids=["middle", "save", "last"])
def test_a_gradient_with_nan_stops_the_training_before_its_update(job, monkeypatch, at):
    poison(monkeypatch, at)
    one = job(max_steps=5, save_every=2)
    with pytest.raises(ParameterError, match=f"gradient of step {at} is not finite: its norm is nan") as raised:
        train(one)
    assert "not_finite=skip" in raised.value.remedy
    assert [state.step for state in states(one).complete()] in ([[]] if at == 2 else [[], [2], [4]])
    monkeypatch.undo()
    saved = states(one).complete()
    rows = train(job(key=one.key, max_steps=5, save_every=2))
    assert [row["step"] for row in rows] == list(range(6))
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert not saved or saved[-1].step < at


@pytest.mark.parametrize("at", [2, 4, 5], ids=["middle", "save", "last"])
def test_or_leaves_the_update_out(job, monkeypatch, at):
    poison(monkeypatch, at)
    one = job(max_steps=5, save_every=2, not_finite="skip")
    rows = train(one)
    assert [row.get("skipped", 0) for row in rows] == [int(row["step"] == at) for row in rows]
    assert all(torch.isfinite(value).all() for value in tuned(one).values())
    written = [json.loads(line) for line in Path(one.out, "log.jsonl").read_text().splitlines()]
    assert written == rows
