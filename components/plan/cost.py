"""What the video model's part of a run will cost: FLOPs, bytes and peak memory of a clip, and of a source's videos.

A reconstruction step with cross-stream memory runs four samples; two of them attend to twice the keys. FLOPs are
checked against a FLOP counter on the real shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.models.video import family_of
from components.models.video.interface import Sizes

A100_FLOPS = 184e12  # bf16, what the published "180 s for 50 guided steps" implies for CogVideoX-5B on one A100


@dataclass(frozen=True)
class ClipCost:
    """A clip of so many frames of height × width pixels in a model of these sizes."""

    model: Sizes
    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """S, the video tokens."""
        return self.model.tokens(self.frames, self.height, self.width)

    @property
    def _keys(self) -> int:
        return self.tokens + self.model.text_tokens

    def inversion(self, steps: int, fixed_point_iters: int) -> float:
        """FLOPs of the inversion."""
        # the last candidate of an iteration is checked as well
        forwards = fixed_point_iters + 2 if fixed_point_iters else 1
        return steps * forwards * self.model.forward(self.tokens, self._keys)

    def capture(self, steps: int, rows: int, *, memory: bool) -> float:
        """Return the FLOPs of one sample's reconstruction and of the captured rows."""
        step = 2 * self.model.forward(self.tokens, self._keys)
        if memory:
            step += 2 * self.model.forward(self.tokens, 2 * self._keys)
        kept = min(rows, self.tokens) + self.model.text_tokens
        return steps * (step + 2 * kept * self._keys * self.model.width * self.model.layers)

    def trajectory_bytes(self, steps: int, item: int) -> int:
        """Bytes of the stored trajectory, `item` per number."""
        model = self.model
        latents = model.latent_frames(self.frames) * (self.height // model.spatial) * (self.width // model.spatial)
        return (steps + 1) * model.channels * latents * item

    def map_bytes(self, words: float) -> int:
        """Return the bytes of a sample's stored t2v maps, fp16."""
        return int(self.model.heads * words * self.tokens * 2)

    def peak_bytes(self, rows: int, words: float) -> int:
        """Return the peak of what capture adds on the device: fp32 accumulators, and q and k of four streams."""
        latent = self.model.latent_frames(self.frames) // self.model.patch_t
        accumulators = 4 * self.model.heads * self.tokens * (min(rows, self.tokens) + words + latent)
        return int(accumulators + 4 * 4 * 2 * self._keys * self.model.width)


@dataclass(frozen=True)
class PlannedVideo:
    """A video of the source: frames (decoded, or by its header), words per sample, and what of it is remembered.

    `captured`: keys of the captures that are remembered, one per sample, empty where one is not.
    `problem`: why its header cannot be read.
    """

    name: str
    frames: int
    words: list[int]
    imported: bool = False
    inverted: bool = False
    captured: Sequence[str] = ()
    problem: str = ""


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
    folder: Path, videos: Sequence[PlannedVideo], inversion: Any, capture: Any, shared: Any, selected: int | None
) -> Estimate:
    """Estimate a run from the model's config and each clip's own frame count.

    Args:
        folder: the video model's diffusers folder.
        videos: the source's videos; those with too few frames are left out.
        inversion: parameters of ddim_inversion.
        capture: parameters of attention_capture.
        shared: the shared parameters, among them `num_steps` and `token_ratio`.
        selected: samples whose token selection is remembered; None where the heads are not chosen yet.
    """
    family = family_of(folder)
    model = family.sizes(folder)
    item, num_steps = 2 if inversion.dtype == "bfloat16" else 4, shared.num_steps
    clips = [
        (video, ClipCost(model, frames, inversion.height, inversion.width))
        for video in videos
        if (frames := family.frames.largest(min(video.frames, inversion.num_frames)))
    ]
    texts = [(words, clip) for video, clip in clips for words in video.words]
    invert = [clip for video, clip in clips if not video.inverted]
    to_capture = [
        clip for video, clip in clips for k in range(len(video.words)) if not (video.imported and video.captured[k])
    ]
    flops_invert = sum(clip.inversion(num_steps, inversion.fixed_point_iters) for clip in invert)
    flops_capture = sum(clip.capture(num_steps, capture.rows, memory=capture.memory) for clip in to_capture)
    trajectories = sum(clip.trajectory_bytes(num_steps, item) for _, clip in clips)
    maps = sum(clip.map_bytes(words) for words, clip in texts)
    priors = sum(4 * shared.token_ratio * words * clip.tokens for words, clip in texts)
    per_hour = A100_FLOPS * 3600
    imported, samples = sum(video.imported for video, _ in clips), len(texts)
    steps = [
        StepEstimate("dataset_import", imported, len(clips) - imported),
        StepEstimate("ddim_inversion", len(clips) - len(invert), len(invert), flops_invert / per_hour, trajectories),
        StepEstimate("attention_capture", samples - len(to_capture), len(to_capture), flops_capture / per_hour, maps),
        StepEstimate("token_selection", selected, samples - (selected or 0), None, priors),
    ]
    peaks = [clip.peak_bytes(capture.rows, max(video.words)) for video, clip in clips]
    return Estimate(steps, max(peaks, default=0))
