"""A training step of the engine: with alignment against without, and against transformers' own `Trainer`.

The model is the one of `language`, its weights in float32, with gradient checkpointing, one sample of more than 2048
tokens a step, AdamW; on a GPU both sides compute in bfloat16. A step is forward, losses, backward, the gradient's norm
and the update: `Training` as the product runs it on one process, and a `Trainer` that neither logs nor saves. Ten words
of four rows each are aligned with a prior, on the grid of CogVideoX-5B's 49 frames on a GPU, on one with half of its
cells along each axis on a CPU. There processor time counts, of one thread, so that other work on the machine does not;
on a GPU wall-clock time. Before anything is measured, the first two losses of plain training must be the
Trainer's, and the first L_AR with alignment the one without.

Legend: T words, R rows of the sequence, F H W the prior's grid.
"""

from __future__ import annotations

import atexit
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import count, pairwise, repeat
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from bench import language
from bench.language import QUESTION, RESPONSE
from bench.measure import memory_ratio, time_ratio
from bench.table import Row
from components.core.artifacts import VlmLine
from components.core.records import Grid, Ref, Sample, Video
from components.models.vlm.example import collate
from components.models.vlm.interface import Conversation
from components.models.vlm.model import load_vlm
from components.sft.data import Item, Target
from components.sft.launch import Stop
from components.sft.lines import write_lines
from components.sft.loop import Job, Training
from components.sft.processes import Processes, joined
from components.sft.settings import SftSettings

SETUP = language.SETUP._replace(dtype=torch.float32)
NUM_FRAMES, ROWS_PER_WORD, NUM_WORDS = 22, 4, 10
PRIOR = (13, 30, 45) if SETUP.device == "cuda" else (7, 15, 22)
RATE, DECAY = 1e-5, 0.1
ENDLESS = 10**6  # steps: the rate stays where it is


class SteadyTraining(Training):
    """A training that takes one sample in memory over and over; λ is what is given."""

    def _variance(self) -> float:
        return 1.0


def rows(pairs: int = 5) -> Iterator[Row]:
    """Measure the training's rows of the table."""
    check_agreement()
    aligned, plain, trainer = (step(side) for side in ("aligned", "plain", "trainer"))
    end = f"training step, N={len(sample().example.input_ids)}"
    one, other, hf = "training:aligned:any", "training:plain:any", "training:trainer:any"
    name, against = f"{end}: aligned / not aligned", f"{end}: aligned / plain HF Trainer"
    how: dict[str, Any] = {"warm_up": False, "clock": perf_counter if SETUP.device == "cuda" else process_time}
    yield time_ratio(f"{name}, time", 1.10, aligned, plain, pairs, **how)
    yield memory_ratio(f"{name}, peak memory", 1.15, one, other)
    yield time_ratio(f"{against}, time", 1.10, aligned, trainer, pairs, **how)
    yield memory_ratio(f"{against}, peak memory", 1.15, one, hf)


def check_agreement() -> None:
    """Compare the first two steps' losses.

    Raises:
        RuntimeError: they differ; then no ratio means anything.
    """
    found = {side: [step(side)() for _ in range(2)] for side in ("aligned", "plain", "trainer")}
    pairs = [(found["plain"][k], found["trainer"][k]) for k in range(2)] + [(found["aligned"][0], found["plain"][0])]
    tolerance = 2e-2 if SETUP.device == "cuda" else 1e-4
    if any(abs(a - b) > tolerance * b for a, b in pairs):
        raise RuntimeError(f"the losses of the first two steps differ: {found}")


def work(side: str, size: str) -> Callable[[], object]:
    """Return a whole training step. There is one size only."""
    return step(side)


@cache
def step(side: str) -> Callable[[], float]:
    """Return a training step of `aligned`, `plain` or `trainer`; it returns L_AR."""
    item = sample()
    if side == "trainer":
        return trainer_step(model(), item)
    item = item if side == "aligned" else Item(item.example, None)
    return engine_step(training(model(), processes(), 1.0 if side == "aligned" else 0.0), item)


def engine_step(made: SteadyTraining, item: Item) -> Callable[[], float]:
    """Return a step of the product's training on this sample."""
    numbers, stream = count(2), repeat(item)  # the first step of a training measures two norms more
    made.module.model.train()
    return lambda: float(made._step(next(numbers), stream)["ar"])


def training(folder: Path, among: Processes, align_weight: float, **settings: Any) -> SteadyTraining:
    """Return a training as the product begins it; its data is not read, a sample is given to each step."""
    fixed = {"global_batch": among.count, "max_steps": ENDLESS, "norms_every": ENDLESS, "warmup": 0.0, "held_out": 0.0}
    fixed |= {"lr_vision": RATE, "lr_llm": RATE, "weight_decay": DECAY}
    file, lines = Ref.model_construct(sha256="0" * 64), scratch() / "lines"
    if not lines.is_dir():
        lines.mkdir()
        one = {"video": Video.model_construct(file=file), "sample": Sample.model_construct(id="0" * 16)}
        write_lines(lines, [VlmLine.model_construct(**one)])
    job = Job.model_construct(
        settings=SftSettings.model_validate({**fixed, **settings}),
        align_weight=align_weight,
        seed=0,
        vlm=str(folder),
        store=str(scratch() / "store"),
        key="bench",
        lines=str(lines),
        out=str(scratch() / "out"),
    )
    made = SteadyTraining(job, among, Stop())
    made.saver.close()
    return made


def trainer_step(folder: Path, item: Item) -> Callable[[], float]:
    """Return a step of transformers' Trainer; it trains in a thread that waits between its steps."""
    vlm = load_vlm(folder, SETUP.dtype, SETUP.device, rows=False)
    batch = collate([item.example])
    inputs = vlm.arguments(batch) | {"labels": batch["labels"].to(SETUP.device)}
    go, done, losses = threading.Semaphore(0), threading.Semaphore(0), list[Tensor]()

    class Turns(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            go.acquire()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            done.release()

    class Noting(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            losses.append(super().training_step(*args, **kwargs))
            return losses[-1]

    arguments = TrainingArguments(
        output_dir=str(scratch() / "trainer"),
        per_device_train_batch_size=1,
        max_steps=ENDLESS,
        learning_rate=RATE,
        weight_decay=DECAY,
        lr_scheduler_type="constant",
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=SETUP.device == "cpu",
        bf16=SETUP.device == "cuda",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    data: Any = [0] * ENDLESS
    made = Noting(vlm.model, arguments, lambda _: dict(inputs), data, callbacks=[Turns()])

    def run() -> None:
        if SETUP.device == "cpu":
            torch.set_num_threads(1)
        try:
            made.train()
        finally:
            done.release()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def one() -> float:
        go.release()
        done.acquire()
        if not thread.is_alive():
            raise RuntimeError("transformers' Trainer ended; its error is above")
        return float(losses[-1])

    return one


@cache
def sample() -> Item:
    """Return one sample of random pixels with a random prior."""
    return make_sample(model(), NUM_FRAMES, SETUP.height, SETUP.width, PRIOR)


def make_sample(folder: Path, num_frames: int, height: int, width: int, prior: tuple[int, int, int]) -> Item:
    """Return a sample for the model in `folder`: a clip of random pixels and the bench's conversation about it."""
    vlm = load_vlm(folder, torch.float32, "cpu", rows=False, weights=False)
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    seconds = num_frames / 2
    example = vlm.prepare(Conversation([], QUESTION, RESPONSE), frames, [k / 2 for k in range(num_frames)], seconds)
    behind = torch.arange(int(example.video_columns[-1]) + 1, len(example.input_ids))
    rows_R = behind[torch.linspace(0, len(behind) - 1, NUM_WORDS * ROWS_PER_WORD).long()]
    map_TR = torch.eye(NUM_WORDS).repeat_interleave(ROWS_PER_WORD, 1) / ROWS_PER_WORD
    edges = np.linspace(0, seconds, prior[0] + 1).tolist()
    grid = Grid(times=list(pairwise(edges)), rows=prior[1], cols=prior[2], box=(0.0, 1.0, 0.0, 1.0))
    prior_TFHW = torch.rand(NUM_WORDS, *prior, generator=torch.Generator().manual_seed(0))
    return Item(example, Target(map_TR, rows_R, prior_TFHW, grid, 1.0))


@cache
def model() -> Path:
    """Write the model once for a process's life."""
    return language.write_model(scratch() / "model", SETUP)


@cache
def processes() -> Processes:
    """Return this process as a training of its own."""
    return _until_the_end().enter_context(joined(10.0))


@cache
def scratch() -> Path:
    """Return a folder that is removed at the end."""
    return Path(_until_the_end().enter_context(tempfile.TemporaryDirectory()))


@cache
def _until_the_end() -> ExitStack:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack
