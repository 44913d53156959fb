"""What the report is made from: the run's manifests joined by sample, and readers for the objects they name."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
import torch

from components.core.artifacts import EvalResult, LeakageReport, PriorLine, PriorSet, TunedModel, VlmLine, VlmMaps
from components.core.records import Failure, Json, ModelId, StepRecord
from components.media.grids import pool_mask
from components.media.map_algebra import frame_difference_prior
from components.media.sampling import spread
from components.pages.samples import Stored, unread_warning
from components.pages.training_log import read_log
from components.quality.measures import Scene, centre_map
from components.report.survey import Files, Survey

_MOST_FRAMES = 64  # read of one clip for its frame difference
_MOST_PIXELS = 128  # side of a frame that a frame difference needs
_MOST_BYTES = 400_000_000  # decoded frames held at once


@dataclass
class Frozen:
    """What one pass over the frozen VLM's lines finds: lines of pictured samples by id, coverage of all samples, maps.

    The maps are those of the tuned VLM as well.
    """

    shown: dict[str, VlmLine] = field(default_factory=dict)
    coverage: array[float] = field(default_factory=lambda: array("d"))
    maps: Files = field(default_factory=Files)


@dataclass(frozen=True)
class PriorMaterial(Stored):
    """A prior set, and the lines of a VLM before and after tuning, by sample id, where there are any.

    At most `masked` lines of samples with a ground-truth mask are kept.
    """

    priors: PriorSet
    after: dict[str, VlmLine] = field(default_factory=dict, kw_only=True)
    masked: int = field(default=0, kw_only=True)

    @cached_property
    def survey(self) -> Survey:
        """What all lines of the prior set say."""
        found = Survey(self.masked)
        for line in self.priors.lines:
            found.add(line)
        return found

    @cached_property
    def order(self) -> list[PriorLine]:
        """The lines of samples that may be pictured in the order that they are taken: by sha256(sample id)."""
        return self.survey.first.lines

    @cached_property
    def unread(self) -> str:
        """What the video model could not read; empty where it read everything."""
        return unread_warning(self.priors, self.survey.unread)

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

    @cached_property
    def frozen(self) -> Frozen:
        """What the frozen model's lines say."""
        wanted, found = {*self.after, *(line.sample.id for line in self.order)}, Frozen()
        for line in self._trained_on():
            if line.sample.id in wanted:
                found.shown[line.sample.id] = line
            found.coverage.append(line.coverage)
            found.maps.add(*filter(None, [line.vlm_map]))
        found.maps.add(*(line.vlm_map for line in self.after.values() if line.vlm_map is not None))
        return found

    def _trained_on(self) -> Iterator[VlmLine]:
        """Yield the frozen model's lines that the training saw: without videos that leaked, and long samples."""
        yield from self.model.lines  # of schema version 1
        if not self.model.maps:
            return
        leakage, most = self.model.leakage, self.model.provenance["sft"].params.get("max_tokens")
        leaked = {*(() if leakage is None else self.store.manifest(leakage.report, LeakageReport).excluded)}
        for digest in self.model.maps:
            for line in self.store.manifest(digest, VlmMaps).lines:
                if line.video.id not in leaked and (most is None or (line.tokens or 0) <= most):
                    yield line

    @cached_property
    def before(self) -> dict[str, VlmLine]:
        """The frozen model's lines of samples that are pictured, by sample id."""
        return self.frozen.shown

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digests of the manifests by what they are; results as `<benchmark>, <untouched or tuned>`."""
        found = {"prior set": self.priors.digest, "tuned model": self.model.digest}
        for kind, results in (("untouched", self.untouched), ("tuned", self.tuned)):
            found |= {f"{protocol}, {kind}": result.digest for protocol, result in sorted(results.items())}
        return found

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
