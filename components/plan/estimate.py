"""What is remembered and what is to compute of a source's videos, with GPU-hours, stored bytes and peak memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.models.video import family_of
from components.plan.cost import A100_FLOPS, ClipCost
from components.store.entries import Entry


@dataclass(frozen=True)
class Known:
    """Of a video that was imported before: whether its inversion is remembered, and each sample's capture or None."""

    inverted: bool
    captured: list[Entry | None]


@dataclass(frozen=True)
class PlannedVideo:
    """A video of the source: name, frames (decoded, or by its header), words per sample, and what is remembered."""

    name: str
    frames: int
    words: list[int]
    known: Known | None


@dataclass(frozen=True)
class StepEstimate:
    """Units of one step, A100-hours and stored bytes; where `remembered` is None, `to_compute` is an upper bound."""

    step: str
    remembered: int | None
    to_compute: int
    hours: float | None = None
    stored_bytes: float | None = None


@dataclass(frozen=True)
class Estimate:
    """Each step up to token_selection, and the bytes that capture adds on the device at its peak."""

    steps: list[StepEstimate]
    peak_bytes: int


def estimate(
    folder: Path,
    videos: Sequence[PlannedVideo],
    inversion: Any,
    capture: Any,
    num_steps: int,
    token_ratio: float,
    selected: int | None,
) -> Estimate:
    """Estimate a run from the model's config and each clip's own frame count.

    Args:
        folder: the video model's diffusers folder.
        videos: the source's videos; those with too few frames are left out.
        inversion: parameters of ddim_inversion.
        capture: parameters of attention_capture.
        num_steps: N.
        token_ratio: share of the tokens that become the prior.
        selected: samples whose token selection is remembered; None where the heads are not chosen yet.
    """
    family = family_of(folder)
    model = family.sizes(folder)
    item = 2 if inversion.dtype == "bfloat16" else 4
    clips = [
        (video, ClipCost(model, frames, inversion.height, inversion.width))
        for video in videos
        if (frames := family.frames.largest(min(video.frames, inversion.num_frames)))
    ]
    texts = [(words, clip) for video, clip in clips for words in video.words]
    invert = [clip for video, clip in clips if not (video.known and video.known.inverted)]
    to_capture = [
        clip
        for video, clip in clips
        for index in range(len(video.words))
        if not (video.known and video.known.captured[index])
    ]
    flops_invert = sum(clip.inversion(num_steps, inversion.fixed_point_iters) for clip in invert)
    flops_capture = sum(clip.capture(num_steps, capture.rows, memory=capture.memory) for clip in to_capture)
    trajectories = sum(clip.trajectory_bytes(num_steps, item) for _, clip in clips)
    maps = sum(clip.map_bytes(words) for words, clip in texts)
    priors = sum(4 * token_ratio * words * clip.tokens for words, clip in texts)
    imported, samples = sum(video.known is not None for video, _ in clips), len(texts)
    steps = [
        StepEstimate("dataset_import", imported, len(clips) - imported),
        StepEstimate("ddim_inversion", len(clips) - len(invert), len(invert), _hours(flops_invert), trajectories),
        StepEstimate("attention_capture", samples - len(to_capture), len(to_capture), _hours(flops_capture), maps),
        StepEstimate("token_selection", selected, samples - (selected or 0), None, priors),
    ]
    peaks = [clip.peak_bytes(capture.rows, max(video.words)) for video, clip in clips]
    return Estimate(steps, max(peaks, default=0))


def _hours(flops: float) -> float:
    return flops / A100_FLOPS / 3600
