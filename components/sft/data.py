"""Training samples: which are held out, in which order they come, and each one as tensors (input, words, prior).

Order and split are pure functions of the seed and the samples' weights, so the step number alone says where a resumed
run continues. A sample's alignment target is its prior, or with `prior_control` another map in its place.

Legend: T words, R rows of the sequence, F H W the prior's grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import floor, fsum

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from components.core.errors import MotionEnhancerError, ParameterError
from components.core.records import Grid, sha256
from components.media.map_algebra import frame_difference_prior
from components.media.sampling import refuse_image
from components.media.video import iterate_frames
from components.models.vlm.example import IGNORED, Example
from components.models.vlm.interface import conversation
from components.models.vlm.model import Vlm
from components.sft.lines import SharedLines
from components.sft.loss import shuffled_prior, uniform_prior
from components.sft.settings import SftSettings
from components.store.entries import Store
from components.store.tensors import unpack
from components.vlm_attention.maps import WordRows


@dataclass(frozen=True)
class Target:
    """What a sample's rows are aligned with: covered words only."""

    map_TR: Float[Tensor, "T R"]
    rows_R: Int[Tensor, " R"]
    prior_TFHW: Float[Tensor, "T F H W"]
    grid: Grid
    weight: float


@dataclass(frozen=True)
class Item:
    """One training sample; without a target only the response is learned."""

    example: Example
    target: Target | None

    @property
    def aligned_rows(self) -> tuple[int, int]:
        """How many rows are aligned, and how many of them before the response: only these can teach the answer."""
        if self.target is None:
            return 0, 0
        rows_R, learned = self.target.rows_R, self.example.labels != IGNORED
        return len(rows_R), int((rows_R < int(learned.nonzero()[0])).sum())


def split(lines: SharedLines, share: float, seed: int) -> tuple[SharedLines, SharedLines]:
    """Return training and held-out lines: ⌊share · videos⌋ videos, those with the smallest sha256(seed, video sha256).

    A ParameterError where nothing is left to train on.
    """
    of = lines.videos
    videos = sorted({*of}, key=lambda name: sha256(f"{seed}:{name}".encode()))
    kept_out = set(videos[: floor(share * len(videos) + 1e-9)])  # .29 of 100 is 28.999…
    train = [index for index, name in enumerate(of) if name not in kept_out]
    if not train:
        problem = f"no training samples: {len(lines)} samples"
        raise ParameterError(problem, source=f"held_out={share:g}", remedy="import more videos")
    return lines.take(train), lines.take([index for index, name in enumerate(of) if name in kept_out])


def epoch_length(weights: Sequence[float]) -> int:
    """Return how many samples an epoch shows, each as often as its weight says: Σ ⌊w⌋ + round(Σ (w − ⌊w⌋)).

    At least one where there are weights below 1.
    """
    whole = sum(floor(weight) for weight in weights)
    rest = fsum(weight - floor(weight) for weight in weights)
    return whole + (max(1, round(rest)) if rest else 0)


def order(weights: Sequence[float], seed: int, positions: range) -> list[int]:
    """Return the sample at each position of an endless run of seeded epochs.

    An epoch shows each sample ⌊w⌋ times, and those of a broken weight once more by systematic sampling: in the mean
    over the epochs as often as the weight says. With weights of 1 an epoch is a permutation of the samples.
    """
    length = epoch_length(weights)
    epochs = {position // length for position in positions}
    found = {epoch: _epoch(np.array(weights, dtype=float), length, [seed, epoch]) for epoch in epochs}
    return [found[position // length][position % length] for position in positions]


def _epoch(weights: NDArray[np.float64], length: int, seed: list[int]) -> list[int]:
    generator, whole = np.random.default_rng(seed), np.floor(weights).astype(int)
    shown = np.repeat(np.arange(len(weights)), whole)
    if count := length - len(shown):
        # so many points at equal distances on the broken parts laid end to end, in an order of this epoch's own
        places = generator.permutation(len(weights))
        ends = np.cumsum((weights - whole)[places])
        points = (generator.random() + np.arange(count)) * (ends[-1] / count)
        hit = np.minimum(np.searchsorted(ends, points, side="right"), len(places) - 1)  # a point rounded to the end
        shown = np.concatenate([shown, places[hit]])
    return generator.permutation(shown).tolist()  # type: ignore[no-any-return]


def partners(lines: SharedLines, pool: SharedLines, seed: int) -> SharedLines:
    """Return for each line one of `pool` that shows another video (`prior_control: shuffled`), else a ParameterError.

    The pool's videos form a seeded cycle: a video's partner is the next one, and of that one the sample at the same
    place. A video that is not in the pool (a held-out one) enters the cycle at a place that follows from its id.
    """
    by_video: dict[str, list[int]] = {}
    for index, name in enumerate(pool.videos):
        by_video.setdefault(name, []).append(index)
    names = sorted(by_video)
    cycle = [names[int(k)] for k in np.random.default_rng([seed, 0x5EED]).permutation(len(names))]
    places = {name: place for place, name in enumerate(cycle)}
    found, seen = [], Counter[str]()
    for own in lines.videos:
        if names in ([], [own]):
            remedy = "train on samples of more videos"
            raise ParameterError("no other video's map", source="prior_control=shuffled", remedy=remedy)
        place = places[own] + 1 if own in places else int(sha256(own.encode()), 16)
        others = by_video[cycle[place % len(cycle)]]
        found.append(others[seen[own] % len(others)])
        seen[own] += 1
    return pool.take(found)


@dataclass(frozen=True)
class Samples:
    """The lines as samples, read from the store; `partners` are those of `prior_control: shuffled`."""

    lines: SharedLines
    vlm: Vlm
    store: Store
    settings: SftSettings
    aligned: bool
    partners: SharedLines | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Item:
        line = self.lines[index]
        refuse_image(line.video)
        with self.store.borrowed(line.video.file) as path:
            made, _ = self.vlm.read(conversation(line.sample), line.video, path, self.settings.viewing)
        return Item(made, self._target(index) if self.aligned else None)

    def _target(self, index: int) -> Target | None:
        line, prior_TFHW = self.lines[index], self.prior(index)
        words = WordRows.unpack(self.store.read(line.token_map), len(prior_TFHW), f"sample {line.sample.id}")
        covered = words.covered_T
        if not bool(covered.any()):
            return None
        weight = line.confidence.value if self.settings.gate == "confidence" else 1.0
        return Target(words.map_TR[covered], words.rows_R, prior_TFHW[covered], line.grid, weight)

    def prior(self, index: int) -> Float[Tensor, "T F H W"]:
        """Return the map that the sample is aligned with: its prior, or the control in its place."""
        control, line = self.settings.prior_control, self.lines[index]
        prior_TFHW = unpack(self.store.read(line.prior))["prior"].float()
        if control == "shuffled":
            assert self.partners is not None
            return shuffled_prior(prior_TFHW, unpack(self.store.read(self.partners[index].prior))["prior"].float())
        if control == "uniform":
            return uniform_prior(prior_TFHW)
        if control == "frame_difference":
            with self.store.borrowed(line.video.file) as path:
                frames = map(torch.from_numpy, iterate_frames(path, line.video.part))
                return frame_difference_prior(prior_TFHW, frames, line.video.times, line.grid)
        return prior_TFHW


def _item_or_error(samples: Samples, index: int) -> Item | MotionEnhancerError:
    try:
        return samples[index]
    except MotionEnhancerError as error:  # raised in a worker, it would reach the training without type and fields
        return error


def loaded(samples: Samples, indices: list[int], workers: int) -> Iterator[Item]:
    """Return the samples in this order, read ahead by `workers` processes, whose errors are raised as they were."""
    read = partial(_item_or_error, samples)
    for found in DataLoader(indices, batch_size=None, num_workers=workers, collate_fn=read):  # type: ignore[arg-type]
        if isinstance(found, MotionEnhancerError):
            raise found
        yield found
