"""Training samples: which are held out, in which order they come, and each one as tensors (input, words, prior).

Order and split are pure functions of the seed, so the step number alone says where a resumed run continues. A sample's alignment
target is its prior, or with `prior_control` another map in its place.

Legend: T words, F H W the prior's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from components.core.artifacts import VlmLine
from components.core.errors import ParameterError
from components.core.records import Grid, sha256
from components.core.store import Store
from components.media.video import read_frames
from components.models.tensors import unpack
from components.models.vlm import Example, Vlm
from components.sft.loss import frame_difference_prior, shuffled_prior, uniform_prior
from components.sft.settings import SftSettings
from components.vlm_attention.maps import WordRows, conversation, example


@dataclass(frozen=True)
class Target:
    """What a sample's rows are aligned with: covered words only."""

    words: WordRows
    prior_TFHW: Float[Tensor, "T F H W"]
    grid: Grid
    weight: float


@dataclass(frozen=True)
class Item:
    """One training sample; no target where only the response is learned."""

    name: str
    example: Example
    target: Target | None


def split(lines: Sequence[VlmLine], share: float, seed: int) -> tuple[list[VlmLine], list[VlmLine]]:
    """Training and held-out lines. Held out are ⌊share · videos⌋ videos, those with the smallest sha256(seed, video sha256).

    Raises:
        ParameterError: nothing is left to train on.
    """
    videos = sorted({line.video.id for line in lines}, key=lambda name: sha256(f"{seed}:{name}".encode()))
    kept_out = set(videos[: floor(share * len(videos) + 1e-9)])  # .29 of 100 is 28.999…
    train = [line for line in lines if line.video.id not in kept_out]
    if not train:
        raise ParameterError(f"no training samples: {len(lines)} samples", source=f"held_out={share:g}", remedy="import more videos")
    return train, [line for line in lines if line.video.id in kept_out]


def order(count: int, seed: int, positions: range) -> list[int]:
    """Which sample comes at each position of an endless run of seeded permutations of `count` samples."""
    found: dict[int, np.ndarray[Any, Any]] = {}
    for epoch in {position // count for position in positions}:
        found[epoch] = np.random.default_rng([seed, epoch]).permutation(count)
    return [int(found[position // count][position % count]) for position in positions]


def partner(index: int, count: int, seed: int) -> int:
    """Another sample for `prior_control: shuffled`: the next one in a seeded cycle, so nobody meets its own map.

    Raises:
        ParameterError: there is only one sample.
    """
    if count < 2:
        raise ParameterError("a single sample has no other's map", source="prior_control=shuffled", remedy="train on more samples")
    cycle = np.random.default_rng([seed, 0x5EED]).permutation(count)
    return int(cycle[(int(np.flatnonzero(cycle == index)[0]) + 1) % count])


class Samples(Dataset[Item]):
    """The lines as training samples; reads prior, token map and video from the store."""

    def __init__(self, lines: Sequence[VlmLine], vlm: Vlm, store: Store, settings: SftSettings, seed: int, *, aligned: bool) -> None:
        self.lines, self.vlm, self.store, self.settings, self.seed, self.aligned = list(lines), vlm, store, settings, seed, aligned

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Item:
        line = self.lines[index]
        talk = conversation(line.sample)
        made, _ = example(self.vlm, self.settings.viewing, line.video, self.store.fetch(line.video.file), talk)
        return Item(line.sample.id, made, self._target(index) if self.aligned else None)

    def _target(self, index: int) -> Target | None:
        line = self.lines[index]
        prior_TFHW = self.prior(index)
        words = WordRows.unpack(self.store.read(line.token_map)).matched(len(prior_TFHW), f"sample {line.sample.id}")
        covered = words.covered_T
        if not bool(covered.any()):
            return None
        kept = replace(words, map_TR=words.map_TR[covered], covered_T=covered[covered])
        weight = line.confidence.value if self.settings.gate == "confidence" else 1.0
        return Target(kept, prior_TFHW[covered], line.grid, weight)

    def own_prior(self, index: int) -> Float[Tensor, "T F H W"]:
        """The sample's motion prior."""
        return unpack(self.store.read(self.lines[index].prior))["prior"].float()

    def prior(self, index: int) -> Float[Tensor, "T F H W"]:
        """The map that the sample is aligned with: its prior, or the control in its place."""
        control, line = self.settings.prior_control, self.lines[index]
        prior_TFHW = self.own_prior(index)
        if control == "shuffled":
            return shuffled_prior(prior_TFHW, self.own_prior(partner(index, len(self), self.seed)))
        if control == "uniform":
            return uniform_prior(prior_TFHW)
        if control == "frame_difference":
            frames = read_frames(self.store.fetch(line.video.file), range(len(line.video.times)))
            return frame_difference_prior(prior_TFHW, torch.from_numpy(frames), line.video.times, line.grid)
        return prior_TFHW
