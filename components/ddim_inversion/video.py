"""From a video file to its inverted trajectory: read, sample, fit, encode, invert.

Apart from the step, since a reader of a trajectory inverts the video again where the scratch was cleaned.
Legend: F, C, h, w latent frames, channels, rows, columns; N steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from components.core.records import Grid, Ref, Video
from components.ddim_inversion.ddim import invert, levels
from components.ddim_inversion.settings import InversionSettings
from components.media.grids import fit_frame, shown_part
from components.media.sampling import choose_frames
from components.media.video import motion_profile, read_frames
from components.models.video.interface import VideoModel
from components.store.entries import Store
from components.store.tensors import unpack


@dataclass(frozen=True)
class Inverted:
    """The latents of all levels, where they lie in the clip, and the largest fixed-point residual."""

    latents: Float[Tensor, "N1 F C h w"]
    grid: Grid
    frames: list[int]
    residual: float


def sample_grid(
    vdm: VideoModel, video: Video, settings: InversionSettings, path: Path
) -> tuple[Tensor, Grid, list[int]]:
    """Return the fitted frames uint8 [n, height, width, 3], the grid of the model's tokens, and the frames' indices."""
    rule = (settings.sampling, settings.native_fps, settings.window)
    motion = motion_profile(path, video.part) if rule[::2] == ("native_fps", "motion") else None
    frames = choose_frames(video.times, settings.num_frames, vdm.frames, *rule, motion, f"video {video.called}")
    height, width, fit = settings.height, settings.width, settings.fit
    resize = partial(fit_frame, height=height, width=width, fit=fit)
    pixels = torch.from_numpy(read_frames(path, frames, video, resize))
    box = shown_part(video.height, video.width, height, width, fit)
    times = [video.times[index] for index in frames]
    return pixels, vdm.grid(times, height, width, box), frames


def invert_video(vdm: VideoModel, path: Path, video: Video, settings: InversionSettings, num_steps: int) -> Inverted:
    """Run DDIM inversion with the empty prompt in `num_steps` steps (supplement eqs. 1–4)."""
    pixels, grid, frames = sample_grid(vdm, video, settings, path)
    clean = vdm.encode_video(pixels)
    embeds = vdm.encode_text("")
    schedule, velocity = levels(vdm.alphas_cumprod, num_steps), lambda x, t: vdm.velocity(x, t, embeds)
    trajectory, residuals = invert(velocity, clean, schedule, settings.inversion_eval, settings.fixed_point_iters)
    return Inverted(trajectory[:, 0], grid, frames, max(residuals, default=0.0))


def read_trajectory(
    store: Store, latents: Ref, video: Video, vdm: Callable[[], VideoModel], settings: InversionSettings, num_steps: int
) -> Float[Tensor, "N1 F C h w"]:
    """Return the latents of all levels; inverted again, which asks for the model, where scratch was emptied.

    Raises:
        DataError: the stored file is damaged, or the video is missing.
    """
    if store.present(latents):
        return unpack(store.read(latents))["latents"]
    with store.borrowed(video.file) as path:
        return invert_video(vdm(), path, video, settings, num_steps).latents.cpu()  # as from the store
