"""Training clips of the small model: coded scenes of seeds that nothing else uses, each a function of its position.

Position p of a run says everything: clip, caption dropout, noise and time step. So the step number alone says where a
resumed run goes on, whatever the number of processes. Time steps are stratified over a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from components.core.errors import ParameterError
from components.synthetic.model.network import LENGTH, SIZE, Architecture, make_tokenizer
from components.synthetic.model.vae import closed_form
from components.synthetic.scenes import draw, make_clip

TRAINING_SEEDS = range(7_340_000, 7_341_000)  # of `scenes`: reserved, no test, smoke or bench may use one
VALIDATION_SEED = TRAINING_SEEDS[-1]  # its clips are never trained on: the losses on the card
TIMESTEPS = 1000
_NUM_FRAMES = Architecture().num_frames


class Batch(NamedTuple):
    """Coded clips, the noise and time steps to see them under, and their captions' token ids."""

    clean_BFCyx: Float[Tensor, "B F C y x"]
    noise_BFCyx: Float[Tensor, "B F C y x"]
    timesteps_B: Int[Tensor, " B"]
    ids_BT: Int[Tensor, "B T"]


class TrainingScenes(Dataset[Batch]):
    """Item p is the batch of one at position p of the run with scene seed `seed`.

    Args:
        seed: one of `TRAINING_SEEDS`.
        batch: clips of an update; time steps are stratified over that many positions.
        dropout: share of captions that are left empty, for classifier-free guidance.
        num_frames: of a clip; its motion takes all of them.

    Raises:
        ParameterError: a seed outside the reserved range.
    """

    def __init__(self, seed: int, batch: int, dropout: float, num_frames: int = _NUM_FRAMES) -> None:
        if seed not in TRAINING_SEEDS:
            remedy = f"choose {TRAINING_SEEDS[0]} to {TRAINING_SEEDS[-1]}: other seeds may be those of test videos"
            raise ParameterError(f"scene seed {seed}", source="TrainingScenes", remedy=remedy)
        self.seed, self.batch, self.dropout, self.num_frames = seed, batch, dropout, num_frames
        self.tokenizer = make_tokenizer()

    def __getitem__(self, position: int) -> Batch:
        clip = make_clip("scenes", self.seed, position, (SIZE, SIZE), self.num_frames)
        clean = closed_form(draw(clip.scene, (SIZE, SIZE))[0])
        rng = np.random.default_rng([self.seed, position])
        caption = "" if rng.uniform() < self.dropout else clip.caption
        timestep = int(TIMESTEPS * (position % self.batch + rng.uniform()) / self.batch)
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        ids = self.tokenizer(caption, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
        return Batch(torch.from_numpy(clean)[None], torch.from_numpy(noise)[None], torch.tensor([timestep]), ids)


def joined(items: list[Batch]) -> Batch:
    """One batch of many."""
    return Batch(*(torch.cat(parts) for parts in zip(*items, strict=True)))
