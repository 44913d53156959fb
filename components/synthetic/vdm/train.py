"""Train the small video model: `python -m components.synthetic.vdm.train FOLDER [--steps N] [--seed N] …`.

Fresh scenes at every step, drawn and coded in a side process; how updates are made and states saved is in
`training.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset

from components.core.errors import ParameterError
from components.synthetic.scenes import draw, make_clip
from components.synthetic.training import Row, Training, train_from_command_line
from components.synthetic.vdm import network
from components.synthetic.vdm.card import write_card
from components.synthetic.vdm.muon import Muon
from components.synthetic.vdm.network import SIZE, TRAINING_SEEDS, Architecture, Denoiser, Recipe
from components.synthetic.vdm.vae import closed_form

QUINTILES, TIMESTEPS = 5, 1000


def train(
    folder: Path, recipe: Recipe, *, save_every: int = 500, workers: int = 1, stop_after: int | None = None
) -> Path | None:
    """Train from the last saved state on and write the checkpoint into `folder`; returns it (see `Training`)."""
    return VideoModelTraining(folder, recipe, save_every, workers).run(stop_after)


class VideoModelTraining(Training["Batch"]):
    """The small video model's."""

    title = "training the small video model"

    def __init__(self, folder: Path, recipe: Recipe, save_every: int, workers: int) -> None:
        self.recipe = recipe
        super().__init__(folder, recipe, network.make_denoiser(recipe.seed, recipe), save_every, workers)
        self.alpha_bar = network.noise_levels().to(self.accelerator.device)

    def choose_optimizers(self, model: Any) -> list[tuple[torch.optim.Optimizer, float]]:
        """Return Muon for the blocks' matrices, and AdamW for the rest."""
        hidden, rest = hidden_matrices(model)
        recipe = self.recipe
        return [(Muon(hidden, lr=recipe.muon_rate), recipe.muon_rate), (self.adamw(rest), recipe.learning_rate)]

    def samples(self) -> Dataset[Batch]:
        """Return the clips of the recipe's seed."""
        recipe = self.recipe
        return TrainingScenes(TRAINING_SEEDS[recipe.seed], recipe.batch, recipe.caption_dropout, recipe.num_frames)

    @staticmethod
    def joined(samples: Sequence[Batch]) -> Batch:
        """Return one batch of many."""
        return Batch(*(torch.cat(parts) for parts in zip(*samples, strict=True)))

    def losses(self, batch: Batch) -> Float[Tensor, " B"]:
        """Return each clip's loss."""
        here = Batch(*(part.to(self.accelerator.device) for part in batch))
        return network.velocity_loss(self.model, *here, self.alpha_bar)

    def noted(self, batch: Batch, losses_B: Float[Tensor, " B"]) -> Row:
        """Return the loss by noise."""
        return {"by_noise": by_noise(losses_B, batch.timesteps_B.to(losses_B.device))}

    def write(self, model: Denoiser, folder: Path) -> str:
        """Write the pipeline, measured on unseen clips."""
        losses = validation_losses(model, self.recipe)
        network.save_pipeline(model.cpu(), folder)
        write_card(folder, self.recipe, losses)
        return f"losses on unseen clips by noise: {losses}"


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


def hidden_matrices(model: Denoiser) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the matrices of the blocks' attention and feed-forward, which Muon is for, and all other parameters."""
    hidden: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        inner = weight.dim() == 2 and "transformer_blocks" in name and ".norm" not in name
        (hidden if inner else others).append(weight)
    return hidden, others


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
    """Train from the command line."""
    program, description = "python -m components.synthetic.vdm.train", "Train the small video model."
    train_from_command_line(program, description, Recipe, train, arguments)


if __name__ == "__main__":
    main()
