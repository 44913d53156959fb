"""What the video model's part of a run will cost: FLOPs, bytes and peak memory of a clip, and of a source's videos.

A reconstruction step with guidance and cross-stream memory runs four samples; two of them attend to twice the keys.
Where guidance is an input of the network it runs one of each. FLOPs are checked against a FLOP counter on the real
shapes, memory against the tensors that live while the real classes run. Memory leaves out what kernels take for
themselves.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from components.core.errors import DataError
from components.core.records import Json, MediaKind, Video
from components.models.video import family_of
from components.models.video.interface import Sizes

MEASURES = 14 * 8  # bytes of a head in a capture's statistics
PIECE = 75  # bytes of a piece in JSON, more or less
HEADERS = 1100  # bytes of the headers of a capture's two safetensors
_EVEN = 1e-6  # seconds
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

    def streams(self, *, memory: bool, guided: bool) -> tuple[int, int]:
        """Return how many samples a reconstruction step runs: main ones, and reference ones."""
        main = 2 if guided else 1
        return main, main if memory else 0

    def capture(self, steps: int, rows: int, *, memory: bool, guided: bool = True) -> float:
        """Return the FLOPs of one sample's reconstruction and of the captured rows."""
        main, reference = self.streams(memory=memory, guided=guided)
        # a main sample attends to its own keys, or also to a reference sample's, which attends to its own
        whole = reference or main
        step = whole * self.model.forward(self.tokens, self._keys)
        if reference:
            step += main * self.model.forward(self.tokens, 2 * self._keys)
        kept = min(rows, self.tokens) + self.model.text_tokens
        return steps * (step + 2 * kept * self._keys * self.model.width * self.model.layers)

    def trajectory_bytes(self, steps: int, item: int) -> int:
        """Bytes of the stored trajectory, `item` per number."""
        model = self.model
        latents = model.latent_frames(self.frames) * (self.height // model.spatial) * (self.width // model.spatial)
        return (steps + 1) * model.channels * latents * item

    @property
    def pixels(self) -> int:
        """Numbers of the clip as the model sees it."""
        return 3 * self.frames * self.height * self.width

    def map_bytes(self, words: float, *, selected: bool = False) -> int:
        """Return the bytes of a sample's stored t2v maps, fp16: of all heads, or the mean over the selected ones."""
        return int((1 if selected else self.model.heads) * words * self.tokens * 2)

    def capture_bytes(self, words: float, *, selected: bool = False, layers: int = 1) -> int:
        """Return the bytes of a capture's files: maps, measures of every head, the text's pieces.

        `layers` are those that are kept apart, as in `map_accumulators`.
        """
        measures = MEASURES * layers * self.model.heads
        return int(self.map_bytes(words, selected=selected) + measures + PIECE * words + HEADERS)

    def forward_bytes(self, samples: int, item: int) -> int:
        """Peak of one forward pass: it is where queries and keys are rotated, which is done in fp32."""
        return samples * self._keys * self.model.width * (self.model.states * item + 12)

    def map_accumulators(self, rows: int, words: float, *, layers: int = 1) -> int:
        """Bytes of what a capture adds up in fp32: rows of words and of places, and same-location pairs of frames."""
        frames = self.model.latent_frames(self.frames) // self.model.patch_t
        per_place = min(rows, self.tokens) + words + frames + 1  # the last is a place's mass on text
        return int(4 * layers * self.model.heads * self.tokens * per_place)

    def encoding_bytes(self, item: int) -> int:
        """Peak of the VAE while it encodes the clip."""
        return int(item * (self.model.encoding * self._area + self.model.clips[0] * self.pixels))

    def decoding_bytes(self, item: int) -> int:
        """Peak of the VAE while it decodes the clip, which only pictures need."""
        return int(item * (self.model.decoding * self._area + self.model.clips[1] * self.pixels))

    @property
    def _area(self) -> int:
        """Pixels of a frame that the VAE works on at once."""
        side = self.model.tile or max(self.height, self.width)
        return min(self.height, side) * min(self.width, side)

    def inversion_peak(self, steps: int, item: int) -> int:
        """Peak of an inversion on the device beside the weights: VAE, then the network with the levels in fp32."""
        levels = self.trajectory_bytes(steps, 8 + item)
        return max(self.encoding_bytes(item), self.forward_bytes(1, item) + levels)

    def capture_peak(
        self, steps: int, rows: int, words: float, item: int, *, memory: bool, guided: bool = True, layers: int = 1
    ) -> int:
        """Peak of a capture on the device beside the weights."""
        samples = sum(self.streams(memory=memory, guided=guided))
        levels = self.trajectory_bytes(steps, 8 + item)
        return self.forward_bytes(samples, item) + self.map_accumulators(rows, words, layers=layers) + levels


def unlike_training(model: Sizes, name: str, frames: int, height: int, width: int) -> str:
    """Return a warning where a video model is given clips of a size or length that it was not trained at, else nothing.

    Fewer frames are no such case: a clip has as many as it has.
    """
    if (height, width) == model.native[1:] and frames <= model.native[0]:
        return ""
    named = ", ".join(
        f"params_ddim_inversion.{field}={value}"
        for field, value in zip(("num_frames", "height", "width"), model.native, strict=True)
    )
    trained = " × ".join(map(str, model.native))
    return (
        f"{name} was trained at {trained} (frames × height × width) and is given up to {frames} × {height} × {width}: "
        f"what it attends to there is not what it has learnt. Set {named} (or --native-size), or take another model"
    )


def weights(folder: Path) -> int:
    """Numbers in the safetensors of a model's parts, by their headers.

    Raises:
        DataError: a file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    count = 0
    for file in sorted(folder.glob("*/*.safetensors")):
        try:
            with safe_open(file, framework="np") as tensors:
                count += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            remedy = "fetch the checkpoint again"
            raise DataError(f"cannot be read: {error}", source=str(file), remedy=remedy) from error
    return count


@dataclass(frozen=True)
class Shown:
    """A clip as sampling sees it: its number of frames, its size in pixels, its seconds.

    `uneven` are the times of its frames where they are not at equal distances (fp64, packed: there are many clips).
    """

    frames: int
    height: int
    width: int
    duration: float
    kind: MediaKind = "video"
    uneven: bytes = b""

    @classmethod
    def of(cls, video: Video) -> Shown:
        """Return what is known of an imported clip."""
        known = cls(len(video.times), video.height, video.width, video.duration, video.kind)
        gaps = (abs(one - even) for one, even in zip(video.times, known.times, strict=True))
        return known if max(gaps, default=0.0) < _EVEN else replace(known, uneven=array("d", video.times).tobytes())

    @property
    def header(self) -> Json:
        """What a header says, by name."""
        return {name: value for name, value in vars(self).items() if name != "uneven"}

    @property
    def times(self) -> Sequence[float]:
        """One per frame, in seconds from the first; at equal distances where only the header is known."""
        if self.uneven:
            return array("d", self.uneven)
        return [k * self.duration / self.frames for k in range(self.frames)]


@dataclass(frozen=True)
class PlannedVideo:
    """A video of the source: frames (decoded, or by its header), text tokens per sample, what of it is remembered.

    `captured`: keys of the captures that are remembered, one per sample, empty where one is not. `samples`: their ids.
    `problem`: why its header cannot be read. `shown`: the same clip, as a vision-language model is shown it.
    """

    name: str
    frames: int
    tokens: list[int]
    imported: bool = False
    inverted: bool = False
    captured: Sequence[str] = ()
    samples: Sequence[str] = ()
    problem: str = ""
    shown: Shown | None = None


@dataclass(frozen=True)
class Peak:
    """The most memory that one process of a step takes, in bytes.

    Attributes:
        main: main memory: the weights on their way to the device, and what it holds of a unit.
        device: the device's, weights and all.
        pictured: the device's where it also draws pictures.
    """

    main: int
    device: int
    pictured: int


@dataclass(frozen=True)
class StepEstimate:
    """Units of one step, A100-hours and stored bytes; where `remembered` is None, `to_compute` is an upper bound.

    `peak` is that of the largest unit to compute, on a GPU step with work to do.
    """

    step: str
    remembered: int | None
    to_compute: int
    hours: float | None = None
    stored_bytes: float | None = None
    peak: Peak | None = None


def estimate(
    folder: Path,
    videos: Sequence[PlannedVideo],
    inversion: Any,
    capture: Any,
    shared: Any,
    selected: int | None,
    video_bytes: int = 0,
) -> list[StepEstimate]:
    """Estimate each step up to token_selection from the model's config and each clip's own frame count.

    Args:
        folder: the video model's diffusers folder.
        videos: the source's videos; those with too few frames are left out.
        inversion: parameters of ddim_inversion.
        capture: parameters of attention_capture.
        shared: the shared parameters, among them `num_steps` and `token_ratio`.
        selected: samples whose token selection is remembered; None where the heads are not chosen yet.
        video_bytes: of the source's files together.
    """
    family = family_of(folder)
    model = family.sizes(folder)
    item, num_steps = 2 if inversion.dtype == "bfloat16" else 4, shared.num_steps
    how = {"memory": capture.memory, "guided": capture.guidance_scale > 1 and not model.distilled}
    one_map, rows = capture.keep == "selected", capture.sampled_rows
    layers = model.layers if capture.granularity == "layer_head" else 1
    clips = [
        (video, ClipCost(model, frames, inversion.height, inversion.width))
        for video in videos
        if (frames := family.frames.largest(min(video.frames, inversion.num_frames)))
    ]
    texts = [(words, clip) for video, clip in clips for words in video.tokens]
    invert = [clip for video, clip in clips if not video.inverted]
    to_capture = [
        (words, clip)
        for video, clip in clips
        for k, words in enumerate(video.tokens)
        if not (video.imported and video.captured[k])
    ]
    flops_invert = sum(clip.inversion(num_steps, inversion.fixed_point_iters) for clip in invert)
    flops_capture = sum(clip.capture(num_steps, rows, **how) for _, clip in to_capture)
    trajectories = sum(clip.trajectory_bytes(num_steps, item) for _, clip in clips)
    maps = sum(clip.capture_bytes(words, selected=one_map, layers=layers) for words, clip in texts)
    priors = sum(2 * shared.token_ratio * words * clip.tokens for words, clip in texts)
    per_hour = A100_FLOPS * 3600
    imported, samples = sum(video.imported for video, _ in clips), len(texts)
    held = item * weights(folder) if to_capture or invert else 0
    inverting = [(clip, clip.inversion_peak(num_steps, item), 0) for clip in invert]
    capturing = [
        # beside the trajectory, the maps in fp32 and as they are stored
        (
            clip,
            clip.capture_peak(num_steps, rows, words, item, **how, layers=layers),
            3 * clip.map_bytes(words, selected=one_map),
        )
        for words, clip in to_capture
    ]

    def peak(units: list[tuple[ClipCost, int, int]], pictures: int) -> Peak | None:
        if not units:
            return None
        device = max(own for _, own, _ in units)
        drawn = max(clip.decoding_bytes(item) for clip, _, _ in units) if pictures else 0
        main = max(clip.pixels + clip.trajectory_bytes(num_steps, item) + more for clip, _, more in units)
        return Peak(held + main, held + device, held + max(device, drawn))

    return [
        StepEstimate("dataset_import", imported, len(clips) - imported, stored_bytes=video_bytes),
        StepEstimate(
            "ddim_inversion",
            len(clips) - len(invert),
            len(invert),
            flops_invert / per_hour,
            trajectories,
            peak(inverting, inversion.pictures),
        ),
        StepEstimate(
            "attention_capture",
            samples - len(to_capture),
            len(to_capture),
            flops_capture / per_hour,
            maps,
            peak(capturing, capture.pictures),
        ),
        StepEstimate("token_selection", selected, samples - (selected or 0), None, priors),
    ]
