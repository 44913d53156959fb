"""What the report is made from: the run's manifests joined by sample, and readers for the objects they name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
import torch

from components.core.artifacts import SMALLEST, EvalResult, PriorLine, PriorSet, TunedModel, VlmLine, VlmMaps
from components.core.records import Failure, Json, ModelId, StepRecord, sha256
from components.media.grids import pool_mask
from components.media.map_algebra import frame_difference_prior
from components.media.sampling import spread
from components.pages.samples import Stored
from components.pages.training_log import read_log
from components.quality.measures import Scene, centre_map

_MOST_FRAMES = 64  # read of one clip for its frame difference
_MOST_PIXELS = 128  # side of a frame that a frame difference needs
_MOST_BYTES = 400_000_000  # decoded frames held at once


@dataclass(frozen=True)
class PriorMaterial(Stored):
    """A prior set, and the lines of a VLM before and after tuning, by sample id, where there are any."""

    priors: PriorSet
    after: dict[str, VlmLine] = field(default_factory=dict, kw_only=True)

    @cached_property
    def before(self) -> dict[str, VlmLine]:
        """The frozen model's lines by sample id."""
        return {}


@dataclass(frozen=True)
class Material(PriorMaterial):
    """Everything a section may show."""

    model: TunedModel
    untouched: dict[str, EvalResult]
    tuned: dict[str, EvalResult]
    provenance: dict[str, StepRecord]
    left_out: list[Failure] = field(default_factory=list)

    @property
    def frozen(self) -> Iterator[VlmLine]:
        """The frozen model's lines, as the training saw them."""
        yield from self.model.lines  # of schema version 1
        for digest in self.model.maps:
            yield from self.store.manifest(digest, VlmMaps).lines

    @cached_property
    def before(self) -> dict[str, VlmLine]:
        """The frozen model's lines of samples that are pictured, by sample id."""
        shown = {*self.after, *self.priors.smallest(SMALLEST)}
        return {line.sample.id: line for line in self.frozen if line.sample.id in shown}

    @cached_property
    def coverage(self) -> list[float]:
        """The coverage of all samples."""
        return [line.coverage for line in self.frozen]

    @cached_property
    def order(self) -> list[PriorLine]:
        """The prior set's lines in the order that pictured samples are taken: by sha256(sample id)."""
        return sorted(self.priors.lines, key=lambda line: sha256(line.sample.id.encode()))

    @cached_property
    def log(self) -> list[Json]:
        """The training log's rows."""
        return [row for row in read_log(self.store.read(self.model.log)) if "step" in row]

    @cached_property
    def models(self) -> dict[str, ModelId]:
        """Models by role; the VLM is the one that was tuned, not what became of it."""
        first = [self.provenance[task] for task in ("sft", "vlm_attention") if task in self.provenance]
        found: dict[str, ModelId] = {}
        for record in [*first, *(record for _, record in sorted(self.provenance.items()))]:
            found = {**record.models, **found}
        return found


def shipped(name: str) -> Any:
    """Return a table beside this file: the paper's own models and parameters, or `make bench-prior-full`'s rows."""
    return json.loads(resources.files("components.report").joinpath(name).read_text())


def scenes(material: Stored, lines: Sequence[PriorLine]) -> list[Scene]:
    """Return the samples with a mask, as `quality` measures them, with the label-free references on their grids."""
    found = []
    for line in lines:
        if line.mask is None:
            continue
        mask = material.tensors(line.mask)
        mover, objects = mask["mover"] > 0, mask["objects"] > 0
        masks, times = (mover.astype(np.uint8), (objects & ~mover).astype(np.uint8)), line.video.times
        moving, still = (np.asarray(pool_mask(one, times, line.grid)) for one in masks)
        references = {"centre prior": centre_map(line.grid), "frame difference": clip_difference(material, line)}
        found.append(Scene(line.sample.id, line.video.id, material.prior(line).mean(0), moving, still, references))
    return found


def clip_difference(material: Stored, line: PriorLine) -> np.ndarray:
    """Return the clip's |frame difference| on the prior's grid, as sft's control does, from at most 64 small frames."""
    times = line.video.times
    indices = spread(len(times), min(len(times), _MOST_FRAMES))
    part = max(2, _MOST_BYTES // (3 * line.video.width * line.video.height))  # every part decodes the clip once
    parts = [indices[start : start + part] for start in range(0, len(indices), part)]
    small = np.concatenate([_reduced(material.frames(line.video, one)) for one in parts])
    frames, shape = torch.from_numpy(small), torch.ones(1, *line.grid.shape)
    found: np.ndarray = frame_difference_prior(shape, frames, [times[i] for i in indices], line.grid)[0].numpy()
    return found


def _reduced(frames: np.ndarray) -> np.ndarray:
    """Average whole blocks of pixels, so that no side is longer than needed."""
    block = -(-max(frames.shape[1:3]) // _MOST_PIXELS)
    n, h, w = len(frames), frames.shape[1] // block, frames.shape[2] // block
    cut = frames[:, : h * block, : w * block].reshape(n, h, block, w, block, 3)
    small: np.ndarray = cut.mean((2, 4)).round().astype(np.uint8)
    return small
