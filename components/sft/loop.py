"""The training loop: L = L_AR + λ · L_align on one module, under accelerate (one process per device).

A step's samples follow from its number, so a state saved between steps resumes in mid-epoch exactly. With λ = 0 no row
is captured and no aligner exists: plain fine-tuning. The log has one row per step: both losses, their gradient norms
where measured, learning rates, validation losses, and where the aligned rows lie.
"""

from __future__ import annotations

import logging
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy

from components.core.artifacts import VlmLine
from components.core.errors import MotionEnhancerError, ParameterError
from components.core.progress import track
from components.core.records import Record, canonical_json, sha256
from components.models.vlm.model import load_vlm
from components.sft.data import Item, Samples, loaded, order, partners, split
from components.sft.loss import effective_weight, prior_variance
from components.sft.module import MotionSFT, parameter_groups, rate
from components.sft.resume import ResumeStates, Row, TrainingLog
from components.sft.settings import SftSettings
from components.store.entries import Store
from components.store.tensors import pack

log = logging.getLogger(__name__)


class Job(Record):
    """Everything a training process needs, as JSON; `out` is a folder that all processes see."""

    settings: SftSettings
    align_weight: float
    seed: int
    vlm: str
    store: str
    key: str
    lines: list[VlmLine]
    out: str


def train(job: Job) -> list[Row]:
    """Train, write `model/`, `aligner.safetensors` and `log.jsonl` into `job.out`, and return the log's rows.

    Raises:
        ParameterError: the global batch cannot be shared among the processes, there is nothing to train on, the loss is
            no number any more, or a GPU has too little memory.
        DataError: a sample's files are damaged, or its words do not fit its prior.
    """
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    try:
        return Training(job).run()
    except torch.OutOfMemoryError as error:
        remedy = "tuning=lora, gradient_checkpointing=true, smaller viewing.max_frames or max_pixels, or a larger GPU"
        raise ParameterError(f"a GPU has too little memory: {error}", source="params_sft", remedy=remedy) from error


def make_accelerator(settings: SftSettings, blocks: list[str]) -> Accelerator:
    """Return bf16 on GPUs, fp32 on a CPU; on several GPUs full tuning is sharded by `blocks` (FSDP2), LoRA is not."""
    cuda = torch.cuda.is_available()
    plugin = None
    if cuda and settings.tuning == "full" and PartialState().num_processes > 1:
        # fp32 master weights: AdamW in bf16 loses updates of 2e-6
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        wrapped = {"auto_wrap_policy": "transformer_based_wrap", "transformer_cls_names_to_wrap": blocks}
        kinds = {"fsdp_version": 2, "state_dict_type": "SHARDED_STATE_DICT", "mixed_precision_policy": precision}
        plugin = FullyShardedDataParallelPlugin(**wrapped, **kinds)
    return Accelerator(cpu=not cuda, mixed_precision="bf16" if cuda else "no", fsdp_plugin=plugin)


class Training:
    """One training: model, data, optimizer and log."""

    def __init__(self, job: Job) -> None:
        self.job, self.settings, self.store = job, job.settings, Store(job.store)
        settings, seed, aligned = job.settings, job.seed, job.align_weight > 0
        processes = PartialState(cpu=not torch.cuda.is_available()).num_processes
        if settings.global_batch % processes:
            problem = f"global_batch={settings.global_batch} for {processes} processes"
            raise ParameterError(problem, source="params_sft", remedy="choose a multiple of the number of GPUs")
        self.accumulation = settings.global_batch // processes
        torch.manual_seed(seed)
        # fp32 master weights; without alignment plain SDPA, so that λ = 0 is plain fine-tuning to the last bit
        vlm = load_vlm(Path(job.vlm), torch.float32, PartialState().device, rows=aligned)
        if settings.gradient_checkpointing:  # the reentrant kind would lose the captured rows' gradient
            vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if settings.tuning == "lora":
            vlm.add_lora(settings.lora_rank)
        self.accelerator = make_accelerator(settings, sorted(vlm.model._no_split_modules))

        train, held = split(job.lines, settings.held_out, seed)
        shuffled = aligned and settings.prior_control == "shuffled"
        self.samples, self.held = (
            Samples(lines, vlm, self.store, settings, aligned, partners(lines, train, seed) if shuffled else ())
            for lines in (train, held)
        )
        self.total = settings.max_steps or math.ceil(settings.epochs * len(train) / settings.global_batch)
        self.variance = self._variance() if aligned else 0.0

        weight = effective_weight(job.align_weight, settings.align_scale, self.variance) if aligned else 0.0
        self.module = MotionSFT(vlm, settings, weight)
        optimizer = torch.optim.AdamW(parameter_groups(self.module, settings), betas=(0.9, 0.999), eps=1e-8)
        self.model, self.optimizer = self.accelerator.prepare(self.module, optimizer)
        self.states = ResumeStates(self.store.backend, job.key)
        board = Path(job.out) / "board" if self.accelerator.is_main_process else None
        self.log = TrainingLog(self.store.backend, job.key, board)

    def _variance(self) -> float:
        """Return the normalized maps' mean variance over (a part of) the data; λ times it is the strength."""
        by_hash = sorted(range(len(self.samples)), key=lambda i: sha256(self.samples.lines[i].sample.id.encode()))
        chosen = by_hash[: self.settings.contrast_samples]
        return sum(prior_variance(self.samples.prior(i), self.settings.row_norm) for i in chosen) / len(chosen)

    def run(self) -> list[Row]:
        """Take all steps from the last saved state on, then write the tuned model's folder."""
        start = self._resume()
        if start == 0:
            row: Row = {"step": 0, "samples": len(self.samples), "held_out": len(self.held), "steps": self.total}
            row["align_weight"] = self.job.align_weight
            if self.job.align_weight > 0:
                row |= {"prior_variance": self.variance, "lambda_variance": self.module.weight * self.variance}
                log.info("λ·Var(normalized prior) = %.3g (1 to 10 works)", row["lambda_variance"])
            self.log.add(row | self._validate())
        positions = range(start * self.settings.global_batch, self.total * self.settings.global_batch)
        sequence = order(len(self.samples), self.job.seed, positions)
        mine = sequence[self.accelerator.process_index :: self.accelerator.num_processes]
        stream = loaded(self.samples, mine, self.settings.workers if torch.cuda.is_available() else 0)
        self.model.train()
        for step in track(range(start + 1, self.total + 1), "6 · Fine-tuning", self.total - start):
            row = self._step(step, stream)
            if step % self.settings.eval_every == 0 or step == self.total:
                row |= self._validate()
            self.log.add(row)
            if step % self.settings.save_every == 0 and step < self.total:
                self._save_state(step)
        self._finish()
        return self.log.rows

    def _step(self, step: int, stream: Iterator[Item]) -> Row:
        """Make one update; return its row of the log."""
        items = [next(stream) for _ in range(self.accumulation)]
        row: Row = {"step": step}
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate(step, self.total, self.settings.warmup)
            row[f"lr_{group['role']}"] = group["lr"]
        if step == 1 or step % self.settings.norms_every == 0:
            row |= self._gradient_norms(items[0])
        sums = torch.zeros(4, dtype=torch.float64)
        for index, item in enumerate(items):
            last = index == len(items) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                found = self.model(item)
                self.accelerator.backward(found["loss"] / len(items))
            sums += torch.tensor([found["ar"].item(), found["align"].item(), *item.aligned_rows], dtype=torch.float64)
        row["grad"] = self._clipped_norm(self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        row |= self._means(sums, self.settings.global_batch)
        if not math.isfinite(row["loss"]):  # the same number on every process
            losses = f"L_AR {row['ar']:.4g}, L_align {row.get('align', 0.0):.4g}"
            problem = f"the loss of step {step} is {row['loss']}: {losses}"
            remedy = "lower lr_llm, lr_vision or aligner_lr; saved states up to here stay"
            raise ParameterError(problem, source="params_sft", remedy=remedy)
        return row

    def _means(self, sums: Tensor, count: int) -> Row:
        whole = self.accelerator.reduce(sums.to(self.accelerator.device, torch.float32), "sum")
        ar, align, rows, before = whole.tolist()
        row: Row = {"ar": ar / count, "loss": (ar + self.module.weight * align) / count}
        if self.module.weight:
            row |= {"align": align / count, "rows": int(rows), "rows_before_response": int(before)}
        return row

    def _clipped_norm(self, most: float) -> float:
        norm: Any = self.accelerator.clip_grad_norm_(self.model.parameters(), most)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # a sharded one is gathered

    def _gradient_norms(self, item: Item) -> Row:
        """Return norms of ∇L_AR and ∇L_align on each process's first sample; the two backward passes leave nothing."""
        found: Row = {}
        for name, other in (("ar", "align"), ("align", "ar"))[: 2 if self.module.weight else 1]:
            out = self.model(item)
            self.accelerator.backward(out[name] + 0 * out[other])  # every parameter takes part, as wrappers expect
            found[f"grad_{name}"] = self._clipped_norm(math.inf)
            self.optimizer.zero_grad()
        return found

    @torch.no_grad()
    def _validate(self) -> Row:
        """Return mean losses over the held-out samples; processes run equally many forwards, as sharded models need."""
        if not len(self.held):
            return {}
        self.model.eval()
        sums = torch.zeros(4, dtype=torch.float64)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        for index in range(rank, rank + len(self.held), processes):
            found = self.model(self.held[min(index, len(self.held) - 1)])
            if index < len(self.held):
                sums += torch.tensor([found["ar"].item(), found["align"].item(), 0, 0], dtype=torch.float64)
        self.model.train()
        means = self._means(sums, len(self.held))
        return {f"val_{name}": means[name] for name in ("ar", "loss", "align") if name in means}

    def _save_state(self, step: int) -> None:
        folder = Path(self.job.out) / "state"
        self.accelerator.save_state(str(folder))
        self.accelerator.wait_for_everyone()  # each process writes its own part
        if self.accelerator.is_main_process:
            self.log.write(folder / "log.jsonl")
            self.states.save(folder, step, self.settings.keep_last)
            shutil.rmtree(folder)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Load the newest state; return the step that it was saved after, 0 without one."""
        if not (steps := self.states.steps()):
            return 0
        folder = Path(self.job.out) / "resume"
        with self.accelerator.main_process_first():  # one download for all processes
            if not folder.exists():
                self.states.load(steps[-1], folder)
        self.accelerator.load_state(str(folder))
        self.log.read(folder / "log.jsonl")
        return steps[-1]

    def _finish(self) -> None:
        out = Path(self.job.out)
        state: dict[str, Tensor] = self.accelerator.get_state_dict(self.model)  # gathered from all processes
        if not self.accelerator.is_main_process:
            return
        model, aligner = (
            {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}
            for part in ("model.", "aligner.")
        )
        sharded = self.accelerator.distributed_type == DistributedType.FSDP
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        self.module.vlm.save(model if sharded else None, Path(self.job.vlm), out / "model", dtype)
        if aligner:
            (out / "aligner.safetensors").write_bytes(pack(aligner, "aligner"))
        self.log.write(out / "log.jsonl")
        self.log.close()


def main(argv: list[str]) -> int:
    """Run one of several processes, `-m components.sft.loop JOB.json`; leave an expected error as `error.json`."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    job = Job.model_validate_json(Path(argv[0]).read_bytes())
    try:
        train(job)
    except MotionEnhancerError as error:
        fields = {"code": error.exit_code, "problem": error.problem, "source": error.source, "remedy": error.remedy}
        (Path(job.out) / "error.json").write_bytes(canonical_json(fields))
        log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
