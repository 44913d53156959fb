"""Train the small model: `python -m components.synthetic.train FOLDER [--steps N] [--seed N] …`.

Fresh scenes at every step, drawn and coded in a side process; Muon for the blocks' matrices and AdamW for the rest,
warm-up, cosine to 0, averaged weights (EMA), under accelerate. A state (accelerate's own files) is written every
`--save-every` updates to FOLDER's neighbour `FOLDER-states`; the same command goes on from the last complete one, to
the same parameters bit for bit on one thread. FOLDER appears when it is complete, card included.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from components.core.errors import ParameterError
from components.core.progress import track
from components.synthetic.model import network
from components.synthetic.model.card import write_card
from components.synthetic.model.muon import Muon
from components.synthetic.model.network import SIZE, TRAINING_SEEDS, Architecture, Denoiser, Recipe
from components.synthetic.model.vae import closed_form
from components.synthetic.scenes import draw, make_clip

log = logging.getLogger(__name__)
QUINTILES, TIMESTEPS = 5, 1000
_DONE, _RECIPE, _LOG = "complete.json", "recipe.json", "log.jsonl"
_KEEP = 2
Row = dict[str, Any]


def train(
    folder: Path, recipe: Recipe, *, save_every: int = 500, workers: int = 1, stop_after: int | None = None
) -> Path | None:
    """Train from the last saved state on and write the checkpoint into `folder`; returns it.

    Args:
        folder: must not exist yet. States and the log lie beside it in `<folder>-states`.
        recipe: what decides the result.
        save_every: updates between two states.
        workers: side processes that draw clips (0: this one).
        stop_after: save a state after this update and return None (a run in parts).

    Raises:
        ParameterError: the folder exists, states of another recipe lie beside it, the loss is not finite, or the batch
            cannot be shared among the processes.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        raise ParameterError(f"{folder.name} exists", source=str(folder), remedy="remove it or name another folder")
    return _Training(folder, recipe, save_every, workers).run(stop_after)


class _Training:
    """One training: model, optimizers, averaged weights and states."""

    def __init__(self, folder: Path, recipe: Recipe, save_every: int, workers: int) -> None:
        self.folder, self.recipe, self.save_every, self.workers = folder, recipe, save_every, workers
        self.states = folder.with_name(f"{folder.name}-states")
        cuda = torch.cuda.is_available()
        self.accelerator = Accelerator(cpu=not cuda, mixed_precision="bf16" if cuda else "no")
        if recipe.batch % self.accelerator.num_processes:
            problem = f"a batch of {recipe.batch} for {self.accelerator.num_processes} processes"
            raise ParameterError(problem, source="--batch", remedy="choose a multiple of the number of processes")
        model = network.make_denoiser(recipe.seed, recipe)
        self.ema = EMAModel(model.parameters(), decay=recipe.ema)
        self.ema.to(self.accelerator.device)
        hidden, rest = hidden_matrices(model)
        adamw = torch.optim.AdamW(rest, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.model, *self.optimizers = self.accelerator.prepare(model, Muon(hidden, lr=recipe.muon_rate), adamw)
        self.peaks = (recipe.muon_rate, recipe.learning_rate)
        self.accelerator.register_for_checkpointing(self.ema)
        self.alpha_bar = network.noise_levels().to(self.accelerator.device)

    def run(self, stop_after: int | None) -> Path | None:
        """Do all remaining updates, then write the checkpoint; None where it stopped before."""
        start, last = self._resume(), min(stop_after or self.recipe.steps, self.recipe.steps)
        stream = self._stream(start, last)
        self.model.train()
        for step in track(range(start + 1, last + 1), "training the small video model", last - start):
            row = self._step(step, next(stream))
            if step % self.save_every == 0 or step == last < self.recipe.steps:
                self._save_state(step)
            if step % 100 == 0 or step == last:
                log.info("step %d: loss %.3f by noise %s", step, row["loss"], row["by_noise"])
        return self._finish() if last == self.recipe.steps else None

    def _stream(self, start: int, last: int) -> Iterator[Batch]:
        """Yield this process's part of each batch from update `start` + 1 on."""
        recipe, many, mine = self.recipe, self.accelerator.num_processes, self.accelerator.process_index
        seed, batch = TRAINING_SEEDS[recipe.seed], recipe.batch
        scenes = TrainingScenes(seed, batch, recipe.caption_dropout, recipe.num_frames)
        parts = [list(range(step * batch, (step + 1) * batch))[mine::many] for step in range(start, last)]
        options: Row = {"num_workers": self.workers, **({"prefetch_factor": 8} if self.workers else {})}
        return iter(DataLoader(scenes, batch_sampler=parts, collate_fn=joined, **options))

    def _step(self, step: int, batch: Batch) -> Row:
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(step, self.recipe.steps, self.recipe.warmup)
        batch = Batch(*(part.to(self.accelerator.device) for part in batch))
        losses_B = network.velocity_loss(self.model, *batch, self.alpha_bar)
        self.accelerator.backward(losses_B.mean())
        losses_B = losses_B.detach()
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        loss, noises = float(losses_B.mean()), by_noise(losses_B, batch.timesteps_B)
        if not math.isfinite(loss):
            problem = f"the loss is {loss} at update {step}"
            raise ParameterError(problem, source="train", remedy="choose a lower --learning-rate")
        row: Row = {"step": step, "loss": loss, "grad": float(norm), "by_noise": noises}
        if self.accelerator.is_main_process:
            with (self.states / _LOG).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
        return row

    def _resume(self) -> int:
        """Load the last complete state and return its update, 0 where there is none; later log lines are dropped."""
        self.states.mkdir(parents=True, exist_ok=True)
        noted, logged, own = self.states / _RECIPE, self.states / _LOG, self.recipe.model_dump_json()
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
        """Write the averaged weights as a pipeline with its card, whole or not at all."""
        model: Denoiser = self.accelerator.unwrap_model(self.model)
        self.ema.copy_to(model.parameters())
        if self.accelerator.is_main_process:
            losses = validation_losses(model.eval(), self.recipe)
            draft = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.parent))
            network.save_pipeline(model.cpu(), draft)
            write_card(draft, self.recipe, losses)
            draft.chmod(0o755)  # mkdtemp's is private, and so are the files of safetensors
            for file in draft.glob("*/*.safetensors"):
                file.chmod(0o644)
            draft.rename(self.folder)
            log.info("losses on unseen clips by noise: %s; %s", losses, self.folder)
        self.accelerator.wait_for_everyone()
        return self.folder


class Batch(NamedTuple):
    """Coded clips, the noise and time steps to see them under, and their captions' token ids."""

    clean_BFCyx: Float[Tensor, "B F C y x"]
    noise_BFCyx: Float[Tensor, "B F C y x"]
    timesteps_B: Int[Tensor, " B"]
    ids_BT: Int[Tensor, "B T"]


class TrainingScenes(Dataset[Batch]):
    """Item p is the batch of one at position p of the run with scene seed `seed`.

    Position p says everything: clip, caption dropout, noise and time step (stratified over a batch). So the step number
    alone says where a resumed run goes on, whatever the number of processes.

    Args:
        seed: one of `TRAINING_SEEDS`.
        batch: clips of an update; time steps are stratified over that many positions.
        dropout: share of captions that are left empty, for classifier-free guidance.
        num_frames: of a clip; its motion takes all of them.

    Raises:
        ParameterError: a seed outside the reserved range.
    """

    def __init__(self, seed: int, batch: int, dropout: float, num_frames: int = Architecture().num_frames) -> None:
        if seed not in TRAINING_SEEDS:
            remedy = f"choose {TRAINING_SEEDS[0]} to {TRAINING_SEEDS[-1]}: other seeds may be those of test videos"
            raise ParameterError(f"scene seed {seed}", source="TrainingScenes", remedy=remedy)
        self.seed, self.batch, self.dropout, self.num_frames = seed, batch, dropout, num_frames
        self.tokenizer = network.make_tokenizer()

    def __getitem__(self, position: int) -> Batch:
        clip = make_clip("scenes", self.seed, position, (SIZE, SIZE), self.num_frames)
        clean = closed_form(draw(clip.scene, (SIZE, SIZE))[0])
        rng = np.random.default_rng([self.seed, position])
        caption = "" if rng.uniform() < self.dropout else clip.caption
        timestep = int(TIMESTEPS * (position % self.batch + rng.uniform()) / self.batch)
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        ids = self.tokenizer(caption, padding="max_length", max_length=network.LENGTH, return_tensors="pt").input_ids
        return Batch(torch.from_numpy(clean)[None], torch.from_numpy(noise)[None], torch.tensor([timestep]), ids)


def joined(items: list[Batch]) -> Batch:
    """One batch of many."""
    return Batch(*(torch.cat(parts) for parts in zip(*items, strict=True)))


def hidden_matrices(model: Denoiser) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the matrices of the blocks' attention and feed-forward, which Muon is for, and all other parameters."""
    hidden: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        inner = weight.dim() == 2 and "transformer_blocks" in name and ".norm" not in name
        (hidden if inner else others).append(weight)
    return hidden, others


def rate(step: int, total: int, warmup: int) -> float:
    """Return the factor of the learning rate at update `step` (1 … total): linear warm-up, then a cosine down to 0."""
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def by_noise(losses_B: Tensor, timesteps_B: Tensor) -> list[float | None]:
    """Mean loss of each fifth of the time steps, low noise first; None where no clip fell into it."""
    fifth = timesteps_B * QUINTILES // TIMESTEPS
    parts = [losses_B[fifth == q] for q in range(QUINTILES)]
    return [round(part.mean().item(), 4) if len(part) else None for part in parts]


@torch.no_grad()
def validation_losses(model: Denoiser, recipe: Recipe) -> list[float]:
    """Loss of clips that no training sees, by fifths of the noise; each clip is seen once in every fifth."""
    device = next(model.parameters()).device
    alpha_bar = network.noise_levels().to(device)
    scenes = TrainingScenes(network.VALIDATION_SEED, 1, 0.0, recipe.num_frames)
    sums = torch.zeros(QUINTILES, dtype=torch.float64)
    for index in range(recipe.validation_clips):
        clean, noise, timestep, ids = (part.to(device) for part in scenes[index])
        for fifth in range(QUINTILES):
            within = (timestep + fifth * TIMESTEPS) // QUINTILES
            sums[fifth] += network.velocity_loss(model, clean, noise, within, ids, alpha_bar).double().cpu().item()
    return [round(float(total) / recipe.validation_clips, 4) for total in sums]


def main(arguments: list[str] | None = None) -> None:
    """Train from the command line: every field of the recipe is an option."""
    parser = argparse.ArgumentParser("python -m components.synthetic.train", description="Train the small video model.")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes; must not exist")
    own: dict[str, tuple[type[Any], Any, str | None]] = {
        "save_every": (int, 500, "updates between two states"),
        "stop_after": (int, None, "save a state after this update and end; the same command goes on"),
        "workers": (int, 1, "side processes that draw clips"),
        "threads": (int, 2, "of torch; the same number gives the same bits"),
    }
    fields = Recipe.model_fields
    recipes = {name: (type(field.default), field.default, field.description) for name, field in fields.items()}
    for name, (kind, default, text) in (recipes | own).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=text)
    found = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(found.pop("threads"))
    recipe = Recipe(**{name: found.pop(name) for name in fields})
    train(found.pop("folder"), recipe, **found)


if __name__ == "__main__":
    main()
