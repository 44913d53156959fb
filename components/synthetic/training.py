"""What the trainings of the small models share: averaged weights, states, a log, the command line.

AdamW unless a training chooses otherwise, warm-up, cosine to 0, averaged weights (EMA), under accelerate. Batches are
drawn in side processes and follow from their position in the run alone. A state (accelerate's own files) is written
every `save_every` updates to the folder's neighbour `<folder>-states`; the same call goes on from the last complete
one, to the same parameters bit for bit on one thread. The folder appears when it is complete, card included.
Legend: B samples.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from components.core.errors import ParameterError
from components.core.progress import track
from components.synthetic.recipe import Optimization

log = logging.getLogger(__name__)
_DONE, _RECIPE, _LOG = "complete.json", "recipe.json", "log.jsonl"
_KEEP = 2
Row = dict[str, Any]
B = TypeVar("B")


class Training(ABC, Generic[B]):
    """One training: model, optimizers, averaged weights and states.

    Args:
        folder: where the checkpoint goes; must not exist yet. States and the log lie beside it in `<folder>-states`.
        recipe: what decides the result.
        model: the network with its initial weights.
        save_every: updates between two states.
        workers: side processes that draw samples (0: this one).

    Raises:
        ParameterError: the folder exists, or the batch cannot be shared among the processes.
    """

    title: ClassVar[str]  # of the progress bar

    def __init__(self, folder: Path, recipe: Optimization, model: nn.Module, save_every: int, workers: int) -> None:
        self.folder = Path(folder).absolute()
        if self.folder.exists():
            problem, remedy = f"{self.folder.name} exists", "remove it or name another folder"
            raise ParameterError(problem, source=str(self.folder), remedy=remedy)
        self.optimization, self.save_every, self.workers = recipe, save_every, workers
        self.states = self.folder.with_name(f"{self.folder.name}-states")
        cuda = torch.cuda.is_available()
        self.accelerator = Accelerator(cpu=not cuda, mixed_precision="bf16" if cuda else "no")
        if recipe.batch % self.accelerator.num_processes:
            problem = f"a batch of {recipe.batch} for {self.accelerator.num_processes} processes"
            raise ParameterError(problem, source="--batch", remedy="choose a multiple of the number of processes")
        self.ema = EMAModel(model.parameters(), decay=recipe.ema)
        self.ema.to(self.accelerator.device)
        chosen = self.choose_optimizers(model)
        self.model, *self.optimizers = self.accelerator.prepare(model, *(optimizer for optimizer, _ in chosen))
        self.peaks = [peak for _, peak in chosen]
        self.accelerator.register_for_checkpointing(self.ema)

    def choose_optimizers(self, model: nn.Module) -> list[tuple[torch.optim.Optimizer, float]]:
        """Return the optimizers of the model's parameters, each with its peak learning rate: AdamW for all."""
        return [(self.adamw(model.parameters()), self.optimization.learning_rate)]

    def adamw(self, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        """Return AdamW by the recipe."""
        recipe = self.optimization
        betas, decay = (0.9, recipe.beta2), recipe.weight_decay
        return torch.optim.AdamW(parameters, lr=recipe.learning_rate, betas=betas, weight_decay=decay)

    @abstractmethod
    def samples(self) -> Dataset[Any]:
        """Return the samples of the run by their position in it."""

    @staticmethod
    @abstractmethod
    def joined(samples: Sequence[Any]) -> B:
        """Return one batch of several samples."""

    @abstractmethod
    def losses(self, batch: B) -> Float[Tensor, " B"]:
        """Return the loss of each sample."""

    def noted(self, batch: B, losses_B: Float[Tensor, " B"]) -> Row:
        """Return what the log holds of an update beside its loss and gradient norm."""
        return {}

    @abstractmethod
    def write(self, model: Any, folder: Path) -> str:
        """Write the checkpoint and its card into `folder`, and return what was measured, for the log."""

    def run(self, stop_after: int | None = None) -> Path | None:
        """Train from the last saved state on and write the checkpoint; returns its folder.

        With `stop_after` save a state after this update and return None (a run in parts).

        Raises:
            ParameterError: states of another recipe lie beside the folder, or the loss is not finite.
        """
        recipe = self.optimization
        start, last = self._resume(), min(stop_after or recipe.steps, recipe.steps)
        stream = self._stream(start, last)
        self.model.train()
        for step in track(range(start + 1, last + 1), self.title, last - start):
            row = self._step(step, next(stream))
            if step % self.save_every == 0 or step == last < recipe.steps:
                self._save_state(step)
            if step % 100 == 0 or step == last:
                log.info("step %d: %s", step, {name: value for name, value in row.items() if name != "step"})
        return self._finish() if last == recipe.steps else None

    def _stream(self, start: int, last: int) -> Iterator[B]:
        """Yield this process's part of each batch from update `start` + 1 on."""
        batch, many, mine = self.optimization.batch, self.accelerator.num_processes, self.accelerator.process_index
        parts = [list(range(step * batch, (step + 1) * batch))[mine::many] for step in range(start, last)]
        options: Row = {"num_workers": self.workers, **({"prefetch_factor": 8} if self.workers else {})}
        return iter(DataLoader(self.samples(), batch_sampler=parts, collate_fn=self.joined, **options))

    def _step(self, step: int, batch: B) -> Row:
        recipe = self.optimization
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(step, recipe.steps, recipe.warmup)
        losses_B = self.losses(batch)
        self.accelerator.backward(losses_B.mean())
        losses_B = losses_B.detach()
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        loss, noted = float(losses_B.mean()), self.noted(batch, losses_B)
        if not math.isfinite(loss):
            problem = f"the loss is {loss} at update {step}"
            raise ParameterError(problem, source="train", remedy="choose a lower --learning-rate")
        row: Row = {"step": step, "loss": loss, "grad": float(norm), **noted}
        if self.accelerator.is_main_process:
            with (self.states / _LOG).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
        return row

    def _resume(self) -> int:
        """Load the last complete state and return its update, 0 where there is none; later log lines are dropped."""
        self.states.mkdir(parents=True, exist_ok=True)
        noted, logged, own = self.states / _RECIPE, self.states / _LOG, self.optimization.model_dump_json()
        if noted.is_file() and noted.read_text(encoding="utf-8") != own:
            remedy = "remove the folder or give its recipe"
            raise ParameterError("states of another recipe", source=str(self.states), remedy=remedy)
        noted.write_text(own, encoding="utf-8")
        steps = [int(done.parent.name.removeprefix("step-")) for done in self.states.glob(f"step-*/{_DONE}")]
        step = max(steps, default=0)
        if step:
            self.accelerator.load_state(str(self._state(step)))
            log.info("going on after update %d", step)
        if self.accelerator.is_main_process and logged.is_file():
            kept = logged.read_text(encoding="utf-8").splitlines(keepends=True)[:step]
            logged.write_text("".join(kept), encoding="utf-8")
        return step

    def _save_state(self, step: int) -> None:
        target = self._state(step)
        self.accelerator.save_state(str(target))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (target / _DONE).write_text("{}", encoding="utf-8")
            for old in sorted(self.states.glob("step-*"))[:-_KEEP]:
                (old / _DONE).unlink(missing_ok=True)  # a state half removed must not count
                shutil.rmtree(old)

    def _state(self, step: int) -> Path:
        return self.states / f"step-{step:08d}"

    def _finish(self) -> Path:
        """Write the averaged weights with their card, whole or not at all."""
        model: Any = self.accelerator.unwrap_model(self.model)
        self.ema.copy_to(model.parameters())
        if self.accelerator.is_main_process:
            draft = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.parent))
            log.info("%s; %s", self.write(model.eval(), draft), self.folder)
            draft.chmod(0o755)  # mkdtemp's is private, and so are the files of safetensors
            for file in draft.rglob("*.safetensors"):
                file.chmod(0o644)
            draft.rename(self.folder)
        self.accelerator.wait_for_everyone()
        return self.folder


def rate(step: int, total: int, warmup: int) -> float:
    """Return the factor of the learning rate at update `step` (1 … total): linear warm-up, then a cosine down to 0."""
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


R = TypeVar("R", bound=Optimization)


def train_from_command_line(
    program: str, description: str, recipe: type[R], train: Callable[..., Path | None], arguments: Sequence[str] | None
) -> None:
    """Train with `train(folder, recipe, save_every=…, …)`: every field of the recipe is an option."""
    parser = argparse.ArgumentParser(program, description=description)
    parser.add_argument("folder", type=Path, help="where the checkpoint goes; must not exist")
    own: dict[str, tuple[type[Any], Any, str | None]] = {
        "save_every": (int, 500, "updates between two states"),
        "stop_after": (int, None, "save a state after this update and end; the same command goes on"),
        "workers": (int, 1, "side processes that draw clips"),
        "threads": (int, 2, "of torch; the same number gives the same bits"),
    }
    fields = recipe.model_fields
    options = {name: (type(field.default), field.default, field.description) for name, field in fields.items()}
    for name, (kind, default, text) in (options | own).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=text)
    found = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(found.pop("threads"))
    chosen = recipe(**{name: found.pop(name) for name in fields})
    train(found.pop("folder"), chosen, **found)
