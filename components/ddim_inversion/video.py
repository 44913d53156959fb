"""From a video file to its inverted trajectory: read, sample, fit, encode, invert.

Apart from the step, since a reader of a trajectory inverts the video again where the scratch was cleaned. What reads
files needs no model, so that it may run ahead.
Legend: F, C, h, w latent frames, channels, rows, columns; N steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from components.core.records import Grid, Ref, Video
from components.ddim_inversion.ddim import invert
from components.ddim_inversion.settings import InversionSettings
from components.media.grids import fit_frame, shown_part
from components.media.sampling import FrameCounts, choose_frames
from components.media.video import motion_profile, read_frames
from components.models.video.interface import VideoModel
from components.store.entries import Store
from components.store.tensors import unpack


@dataclass(frozen=True)
class SampledClip:
    """The frames of a clip at the model's size, their indices and times (seconds), and the part of the source shown."""

    pixels: UInt8[Tensor, "n height width 3"]
    frames: list[int]
    times: list[float]
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Inverted:
    """The latents of all levels, where they lie in the clip, and the largest fixed-point residual."""

    latents: Float[Tensor, "N1 F C h w"]
    grid: Grid
    frames: list[int]
    residual: float


def sample_clip(counts: FrameCounts, video: Video, settings: InversionSettings, path: Path) -> SampledClip:
    """Return the frames that a model which takes `counts` of them sees of a clip."""
    rule = (settings.sampling, settings.native_fps, settings.window)
    motion = motion_profile(path, video.part) if rule[::2] == ("native_fps", "motion") else None
    frames = choose_frames(video.times, settings.num_frames, counts, *rule, motion, f"video {video.called}")
    height, width, fit = settings.height, settings.width, settings.fit
    resize = partial(fit_frame, height=height, width=width, fit=fit)
    pixels = torch.from_numpy(read_frames(path, frames, video, resize))
    box = shown_part(video.height, video.width, height, width, fit)
    return SampledClip(pixels, frames, [video.times[index] for index in frames], box)


def invert_video(vdm: VideoModel, clip: SampledClip, settings: InversionSettings, num_steps: int) -> Inverted:
    """Invert with the empty prompt, without guidance, in `num_steps` steps (supplement eqs. 1–4)."""
    _, height, width, _ = clip.pixels.shape
    grid = vdm.grid(clip.times, height, width, clip.box)
    clean = vdm.encode_video(clip.pixels)
    empty = vdm.encode_text("")
    schedule, velocity = vdm.levels(num_steps), lambda x, t: vdm.velocity(x, t, empty)
    trajectory, residuals = invert(velocity, clean, schedule, settings.inversion_eval, settings.fixed_point_iters)
    return Inverted(trajectory[:, 0], grid, clip.frames, max(residuals, default=0.0))


def read_source(
    store: Store, latents: Ref, video: Video, counts: Callable[[], FrameCounts], settings: InversionSettings
) -> Float[Tensor, "N1 F C h w"] | SampledClip:
    """Return the latents of all levels, or what they are inverted from again, where scratch was emptied.

    Raises:
        DataError: the stored file is damaged, or the video is missing.
    """
    if store.present(latents):
        return unpack(store.read(latents))["latents"]
    with store.borrowed(video.file) as path:
        return sample_clip(counts(), video, settings, path)


def trajectory_of(
    source: Tensor | SampledClip, vdm: Callable[[], VideoModel], settings: InversionSettings, num_steps: int
) -> Float[Tensor, "N1 F C h w"]:
    """Return the latents of all levels of what `read_source` returned; only frames ask for the model."""
    if isinstance(source, Tensor):
        return source
    return invert_video(vdm(), source, settings, num_steps).latents.cpu()  # as from the store
