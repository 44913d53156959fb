"""The training loop: L = L_AR + λ · L_align on one module, in one process per device.

A step's samples follow from its number, so a state saved between steps resumes in mid-epoch exactly, whatever the
number of processes. With λ = 0 no row is captured and no aligner exists: plain fine-tuning. The log has one row per
step: both losses, their gradient norms where measured, learning rates, validation losses, and where the aligned rows
lie.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from components.core.errors import MotionEnhancerError, ParameterError
from components.core.progress import track
from components.core.records import Record, sha256
from components.models.vlm.model import Vlm, load_vlm
from components.runtime.launch import die_with_parent, leave_error
from components.sft.data import Item, Samples, epoch_length, loaded, order, partners, split
from components.sft.engine import Engine, computing_dtype
from components.sft.flops import TrainingFlops
from components.sft.launch import Stop, listening, stopped
from components.sft.lines import SharedLines
from components.sft.loss import effective_weight, prior_variance
from components.sft.module import MotionSFT, freeze, is_adapter, rate, unwrapped
from components.sft.processes import Processes, joined
from components.sft.settings import SftSettings
from components.sft.speed import Meter
from components.sft.state import ResumeStates, State, StateSaver, read_numbers, read_tensors
from components.sft.tracking import Row, TrainingLog, check_tracker
from components.store.backend import PATIENCE
from components.store.entries import Store
from components.store.tensors import pack

log = logging.getLogger(__name__)
_POLL_S = 0.5


class Job(Record):
    """Everything a training process needs, as JSON.

    `lines` is a folder that `write_lines` wrote into, `out` one that the first process writes the result into.
    """

    settings: SftSettings
    align_weight: float
    seed: int
    vlm: str
    store: str
    store_patience: float = PATIENCE  # minutes
    key: str
    attempt: str = ""
    lines: str
    out: str


def train(job: Job) -> list[Row]:
    """Train, write `model/`, `aligner.safetensors`, `adapter/` and `log.jsonl` into `job.out`; return the log's rows.

    Raises:
        ParameterError: the global batch cannot be shared among the processes, there is nothing to train on, a gradient
            is not finite, or a GPU has too little memory.
        DataError: a sample's files are damaged, or its words do not fit its prior.
        TryAgainError: SIGTERM, and a state was saved; scratch is full; the store or another process does not answer.
    """
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    try:
        # another process may be trying the store again
        with listening() as stop, joined(job.settings.collective_timeout + job.store_patience) as processes:
            training = Training(job, processes, stop)
            try:
                return training.run()
            finally:
                training.close()
    except torch.OutOfMemoryError as error:
        remedy = "tuning=lora, gradient_checkpointing=true, smaller viewing.max_frames or max_pixels, or a larger GPU"
        raise ParameterError(f"a GPU has too little memory: {error}", source="params_sft", remedy=remedy) from error


class Training:
    """One training: model, data, optimizer and log."""

    def __init__(self, job: Job, processes: Processes, stop: Stop) -> None:
        self.job, self.settings, self.store = job, job.settings, Store(job.store, job.store_patience)
        self.processes, self.stop, self.out = processes, stop, Path(job.out)
        settings, seed, aligned = job.settings, job.seed, job.align_weight > 0
        if settings.global_batch % processes.count:
            problem = f"global_batch={settings.global_batch} for {processes.count} processes"
            raise ParameterError(problem, source="params_sft", remedy="choose a multiple of the number of GPUs")
        self.accumulation = settings.global_batch // processes.count
        check_tracker(settings.tracker)
        torch.manual_seed(seed)
        vlm = self._load(aligned)
        self.flops = TrainingFlops(vlm)
        train, held = split(SharedLines.open(Path(job.lines)), settings.held_out, seed)
        held = held.take(held.by_hash()[: settings.val_samples])
        shuffled = aligned and settings.prior_control == "shuffled"
        self.samples, self.held = (
            Samples(lines, vlm, self.store, settings, aligned, partners(lines, train, seed) if shuffled else None)
            for lines in (train, held)
        )
        shown = settings.epochs * epoch_length(train.weights)
        self.total = settings.max_steps or math.ceil(shown / settings.global_batch)
        self.variance = self._variance() if aligned else 0.0
        weight = effective_weight(job.align_weight, settings.align_scale, self.variance) if aligned else 0.0
        self.module = MotionSFT(vlm, settings, weight)
        self.engine = Engine(self.module, settings, processes)
        self.states = ResumeStates(self.store.backend, job.key, job.attempt)
        self.saver = StateSaver(self.states, processes, settings.keep_last)
        self.log = TrainingLog(
            self.store.backend,
            job.key,
            main=processes.first,
            folder=self.out / "board",
            tracker=settings.tracker,
            config={"align_weight": job.align_weight, "seed": seed, **settings.model_dump(mode="json")},
        )
        self.meter = Meter(processes.device, processes.rank, processes.count, settings.peak_tflops)
        self.speed: dict[str, float] = {}
        self.updates, self.done = 0, False

    def _load(self, aligned: bool) -> Vlm:
        """Return the model: with its weights, on the CPU, in the first process; without data in the others.

        Without alignment plain SDPA, so that λ = 0 is plain fine-tuning to the last bit.
        """
        settings, processes = self.settings, self.processes
        lora = settings.tuning == "lora"
        dtype = computing_dtype(settings, processes.device) if lora else torch.float32
        vlm = load_vlm(Path(self.job.vlm), dtype, "cpu", rows=aligned, weights=processes.first)
        if processes.first:
            processes.mark("loaded")
        processes.wait("loaded")
        if settings.gradient_checkpointing:  # the reentrant kind would lose the captured rows' gradient
            vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if lora:
            add_adapters(vlm, settings)
        else:
            freeze(vlm, settings.train)
        frozen = computing_dtype(settings, processes.device)
        for one in vlm.model.parameters():
            if not one.requires_grad:
                one.data = one.data.to(frozen)
        return vlm

    def _variance(self) -> float:
        """Return the normalized maps' mean variance over (a part of) the data; λ times it is the strength."""
        chosen = self.samples.lines.by_hash()[: self.settings.contrast_samples]
        mine = chosen[self.processes.rank :: self.processes.count]
        own = [prior_variance(self.samples.prior(i), self.settings.row_norm) for i in mine]
        return math.fsum(value for found in self.processes.gather(own) for value in found) / len(chosen)

    def close(self) -> None:
        """Give up what is still on its way to the store, and end the log."""
        self.engine.close()
        self.saver.close()
        self.log.close(failed=not self.done)

    def run(self) -> list[Row]:
        """Take all steps from the last saved state on, then write the tuned model's folder."""
        start = self._resume()
        self.stop.training = True
        if start == 0:
            row: Row = {"step": 0, "samples": len(self.samples), "held_out": len(self.held), "steps": self.total}
            row["align_weight"] = self.job.align_weight
            if self.job.align_weight > 0:
                row |= {"prior_variance": self.variance, "lambda_variance": self.module.weight * self.variance}
                log.info("λ·Var(normalized prior) = %.3g (1 to 10 works)", row["lambda_variance"])
            found = self._validate()
            if found is None:
                raise stopped("before the first update")
            self._record(row | found)
        batch = self.settings.global_batch
        stream = self.meter.read(self._stream(self.samples, range(start * batch, self.total * batch)))
        self.module.model.train()
        for step in track(range(start + 1, self.total + 1), "6 · Fine-tuning", self.total - start):
            if self._over():
                break
            self._after(step, self._step(step, stream))
        self.stop.training = False
        self._finish()
        self.done = True
        return self.log.rows

    def _after(self, step: int, row: Row) -> None:
        """Validate, log and save what is due after an update, or save a state and end after SIGTERM to any process."""
        if step % self.settings.eval_every == 0 or step == self.total:
            with self.meter.paused():
                found = self._validate()
            if found is None:
                self._leave(step, row)
            row |= found
        self._record(row)
        if self.processes.any(self.stop.requested):
            self._leave(step)
        if step % self.settings.save_every == 0 and step != self.total:
            with self.meter.paused():
                if self.settings.keep == "best":  # else weights that are ever better would leave no room for a state
                    self._wait_for_uploads()
                self._save_state(step)

    def _stream(self, samples: Samples, positions: range) -> Iterator[Item]:
        sequence = order(samples.lines.weights, self.job.seed, positions)
        return self._items(samples, sequence[self.processes.rank :: self.processes.count])

    def _items(self, samples: Samples, indices: list[int]) -> Iterator[Item]:
        return loaded(samples, indices, self.settings.workers if self.processes.device.type == "cuda" else 0)

    def _step(self, step: int, stream: Iterator[Item]) -> Row:
        """Make one update; return its row of the log."""
        items = list(islice(stream, self.accumulation))
        row: Row = {"step": step}
        for group in self.engine.optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate(step, self.total, self.settings.warmup)
            row[f"lr_{group['role']}"] = group["lr"]
        if step == 1 or step % self.settings.norms_every == 0:
            with self.meter.paused():
                row |= self._gradient_norms(step, items)
        sums = self._backward(step, items, "loss")
        row["grad"] = norm = self.engine.gradient_norm()
        row |= self._means(sums, self.settings.global_batch)
        for item in items:
            self.meter.add(len(item.example.input_ids), self.flops.of(item.example))
        self.speed = self.meter.rates(self.processes.sum(self.meter.sums()))
        if math.isfinite(norm) and math.isfinite(row["loss"]):
            self.engine.update(norm, self.settings.clip)
            self.updates += 1
            return row
        self.engine.clear()
        losses = f"L_AR {row['ar']:.4g}, L_align {row.get('align', 0.0):.4g}"
        problem = f"the gradient of step {step} is not finite: its norm is {norm:.4g} ({losses})"
        if self.settings.not_finite == "stop":
            remedy = "lower lr_llm, lr_vision or aligner_lr, or not_finite=skip; saved states up to here stay"
            raise ParameterError(problem, source="params_sft", remedy=remedy)
        log.warning("%s; no update", problem)
        # the log is JSON: no NaN
        kept = {name: value for name, value in row.items() if math.isfinite(value)}
        return kept | {"skipped": 1}

    def _backward(self, step: int, items: list[Item], which: str) -> Tensor:
        """Leave the gradient of a loss' mean over the global batch; return this process's sums of the log."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.processes.device)
        rows = before = 0
        for index, item in enumerate(items):
            if self.settings.lora_dropout:
                place = (step - 1) * self.settings.global_batch + index * self.processes.count + self.processes.rank
                torch.manual_seed(int(sha256(f"{self.job.seed}:{place}".encode())[:15], 16))
            found = self.module(item)
            # every unit takes part in every backward pass, as FSDP expects: rows alone would pass the last layer by
            loss = found[which] if which == "loss" else found[which] + 0 * found["loss"]
            (loss / len(items)).backward()
            sums += torch.stack([found["ar"].detach(), found["align"].detach()]).double()
            rows, before = rows + item.aligned_rows[0], before + item.aligned_rows[1]
        self.engine.average()
        return torch.cat([sums.cpu(), torch.tensor([rows, before], dtype=torch.float64)])

    def _means(self, sums: Tensor, count: int) -> Row:
        ar, align, rows, before = self.processes.sum(sums.tolist())
        row: Row = {"ar": ar / count, "loss": (ar + self.module.weight * align) / count}
        if self.module.weight:
            row |= {"align": align / count, "rows": int(rows), "rows_before_response": int(before)}
        return row

    def _gradient_norms(self, step: int, items: list[Item]) -> Row:
        """Return the norms of ∇L_AR and ∇L_align over the step's samples; the backward passes leave nothing."""
        found: Row = {}
        for name in ("ar", "align")[: 2 if self.module.weight else 1]:
            self._backward(step, items, name)
            norm = self.engine.gradient_norm()
            if math.isfinite(norm):
                found[f"grad_{name}"] = norm
            self.engine.clear()
        return found

    @torch.no_grad()
    def _validate(self) -> Row | None:
        """Return mean losses over the held-out samples, None after SIGTERM; processes run equally many forwards."""
        if not (count := len(self.held)):
            return {}
        self.module.model.eval()
        sums = torch.zeros(4, dtype=torch.float64)
        rank, processes = self.processes.rank, self.processes.count
        turns = range(rank, rank + count, processes)  # in the last turn some repeat a sample that is not counted
        for index, item in zip(turns, self._items(self.held, [min(turn, count - 1) for turn in turns]), strict=True):
            if self.processes.any(self.stop.requested):
                return None
            found = self.module(item)
            if index < count:
                sums += torch.tensor([found["ar"].item(), found["align"].item(), 0, 0], dtype=torch.float64)
        self.module.model.train()
        means = self._means(sums, count)
        return {f"val_{name}": means[name] for name in ("ar", "loss", "align") if name in means}

    # What is kept -----------------------------------------------------------------------------------------------------

    def _record(self, row: Row) -> None:
        """Log a row; keep its weights where they are the best so far and the best are wanted."""
        self.log.add(row, self.speed)
        if self.settings.keep == "best" and self._best() == row["step"]:
            self._wait_for_uploads()
            self.saver.save(row["step"], self.engine.weights(), {"step": row["step"]}, {}, "best")

    def _best(self) -> int | None:
        """Return the step with the least validation loss after an update; None without one."""
        found = [(row["val_loss"], row["step"]) for row in self.log.rows[1:] if "val_loss" in row]
        return min(found)[1] if found else None

    def _over(self) -> bool:
        """Whether the last `patience` validations brought nothing."""
        if self.settings.patience is None:
            return False
        seen = [row["val_loss"] for row in self.log.rows if "val_loss" in row]
        return len(seen) - 1 - min(range(len(seen)), key=seen.__getitem__) >= self.settings.patience if seen else False

    def _save_state(self, step: int, pending: Row | None = None) -> None:
        """Save a state after a step; `pending` is a row that is not logged yet, as its validation was broken off."""
        if self.processes.any(self.saver.busy):
            log.warning("step %d: no state, the last one is still on its way to the store", step)
            return
        numbers = {"step": step, "updates": self.updates, "processes": self.processes.count, "pending": pending}
        parts = self.engine.weights() | self.engine.moments()
        self.saver.save(step, parts, numbers, {"log.jsonl": self.log.text()}, "step")

    def _wait_for_uploads(self) -> None:
        """Wait until every process uploaded its states; they tell each other, so that nobody's patience ends."""
        while self.processes.any(self.saver.busy):
            time.sleep(_POLL_S)
        self.saver.check()

    def _leave(self, step: int, pending: Row | None = None) -> NoReturn:
        """Save a state and end."""
        self._wait_for_uploads()
        self._save_state(step, pending)
        self.saver.finish()
        raise stopped(f"after step {step}, which is saved")

    def _resume(self) -> int:
        """Load the newest state; return the step that it was saved after, 0 without one."""
        newest = self.states.complete()[-1:] if self.processes.first else []
        found: list[State] = self.processes.from_first(newest)
        if not found:
            return 0
        (state,) = found
        numbers = read_numbers(self.store.backend, state)
        read_tensors(self.store.backend, state, self.engine.weights() | self.engine.moments(make=True), self.processes)
        self.updates = int(numbers["updates"])
        self.engine.set_updates(self.updates)
        self.log.read(self.store.backend.get(f"{state.folder}/log.jsonl") or b"")
        log.info("resuming after step %d, saved by %d processes", state.step, numbers["processes"])
        if numbers["pending"] is not None:
            self._after(state.step, numbers["pending"])
        return state.step

    def _finish(self) -> None:
        """Write the tuned model's folder, in the first process; the others give their parts and are done."""
        self._wait_for_uploads()
        if self.settings.keep == "best" and (best := self._best()) is not None:
            self._load_best(best)
        dtype = torch.bfloat16 if self.processes.device.type == "cuda" else torch.float32
        lora = self.settings.tuning == "lora"
        weights = {} if lora else dict(self.engine.gathered(dtype))
        if not self.processes.first:
            return
        adapters = {name: one for name, one in self.module.model.named_parameters() if is_adapter(name)}
        export(
            self.job,
            {unwrapped(name): one.detach().cpu() for name, one in adapters.items()} if lora else weights,
            dtype,
        )
        if self.module.aligner is not None and (aligner := self.module.aligner.state_dict()):
            (self.out / "aligner.safetensors").write_bytes(pack(aligner, "aligner"))
        (self.out / "log.jsonl").write_bytes(self.log.text())

    def _load_best(self, step: int) -> None:
        saved = self.states.complete("best") if self.processes.first else []
        (state,) = self.processes.from_first([state for state in saved if state.step == step][-1:])
        read_tensors(self.store.backend, state, self.engine.weights(), self.processes)


def add_adapters(vlm: Vlm, settings: SftSettings) -> None:
    """Add the low-rank updates that the settings name; they are fp32 whatever the model is."""
    vlm.add_lora(settings.lora_rank, settings.lora_alpha, settings.lora_dropout, settings.lora_targets)


def export(job: Job, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Write `model/`, and `adapter/` where low-rank updates were trained: these are merged into the model in fp32."""
    base, out = Path(job.vlm), Path(job.out)
    lora = job.settings.tuning == "lora"
    vlm = load_vlm(base, torch.float32, "cpu", rows=False, weights=lora)
    if lora:
        add_adapters(vlm, job.settings)
        unknown = vlm.model.load_state_dict(weights, strict=False).unexpected_keys
        assert not unknown, unknown
        vlm.model.save_pretrained(out / "adapter")
        (out / "adapter" / "README.md").unlink(missing_ok=True)  # a form with nothing filled in
        vlm.model = vlm.model.merge_and_unload().to(dtype)
        weights = vlm.model.state_dict()
    vlm.save(weights, base, out / "model", dtype)


def main(argv: list[str]) -> int:
    """Run one of several processes, `-m components.sft.loop JOB.json`; leave an expected error as `error.json`."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the step's process hears it, too, and ends this one
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    job = Job.model_validate_json(Path(argv[0]).read_bytes())
    try:
        train(job)
    except MotionEnhancerError as error:
        leave_error(error, Path(job.out))
        log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
