"""What families with a causal video VAE of diffusers share: latent 0 holds frame 0, latent k frames 4k-3…4k.

The letters in shapes are those of `interface.py`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, UInt8

from components.core.errors import DataError, ParameterError
from components.core.records import Grid
from components.models.family import Tensor
from components.models.video.interface import VideoModel

TEMPORAL = 4  # frames of a latent but the first, which has one


@dataclass(frozen=True, eq=False)
class CausalVideoModel(VideoModel, ABC):
    """A model whose VAE is causal in time, and takes and gives latents [B, C, F, h, w]."""

    def grid(
        self, frame_times: Sequence[float], height: int, width: int, box: tuple[float, float, float, float]
    ) -> Grid:
        return causal_grid(frame_times, height, width, box, self.sizes.patch, self.sizes.patch_t, self.sizes.spatial)

    def encode_video(self, frames: UInt8[Any, "n height width 3"]) -> Float[Tensor, "1 F C h w"]:
        """Posterior mode × scaling factor, in the model's dtype.

        Raises:
            DataError: frames that are not uint8 RGB, of another number than the model takes, or not whole latents.
        """
        import torch

        video = torch.as_tensor(frames)
        if video.dtype != torch.uint8 or video.ndim != 4 or video.shape[-1] != 3:
            problem = f"frames {video.dtype} {tuple(video.shape)}"
            raise DataError(problem, source="encode_video", remedy="give uint8 [n, height, width, 3]")
        (count, height, width, _), spatial, step = video.shape, self.sizes.spatial, self.frames.step
        if count % step != 1 or height % spatial or width % spatial:
            problem = f"{count} frames of {height} × {width} pixels do not make whole latents"
            remedy = f"give {step}k+1 frames, sides multiples of {spatial}"
            raise DataError(problem, source="encode_video", remedy=remedy)
        pixels = video.to(self.device, torch.float32).div_(127.5).sub_(1).permute(3, 0, 1, 2)[None].to(self.dtype)
        codes: Tensor = self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor
        return codes.permute(0, 2, 1, 3, 4).contiguous()

    def decode_latents(self, latents: Float[Tensor, "1 F C h w"]) -> UInt8[Tensor, "n height width 3"]:
        codes = latents.permute(0, 2, 1, 3, 4).to(self.device, self.dtype) / self.vae.config.scaling_factor
        video: Tensor = self.vae.decode(codes).sample[0].float().add_(1).mul_(127.5).round_().clamp_(0, 255)
        return video.byte().permute(1, 2, 3, 0).contiguous().cpu()


def causal_grid(
    frame_times: Sequence[float],
    height: int,
    width: int,
    box: tuple[float, float, float, float],
    patch: int,
    patch_t: int | None,
    spatial: int = 8,
) -> Grid:
    """Return the tokens' grid over sampled frames (`frame_times`, seconds; `height`, `width` in pixels after fitting).

    Under a temporal patch the latents are padded in front by the first one; the mixed token covers its real latents
    only.

    Raises:
        ParameterError: frames that are not 4k+1, or a size that the patches do not divide.
    """
    from components.media.grids import frame_intervals

    side = spatial * patch
    if (len(frame_times) - 1) % TEMPORAL or not len(frame_times) or height % side or width % side:
        problem = f"{len(frame_times)} frames of {height} × {width} pixels"
        remedy = f"choose {TEMPORAL}k+1 frames and multiples of {side} pixels"
        raise ParameterError(problem, source="num_frames, height, width", remedy=remedy)
    frames = frame_intervals(frame_times)
    latents = [frames[0]] + [(frames[k][0], frames[k + TEMPORAL - 1][1]) for k in range(1, len(frames), TEMPORAL)]
    group = patch_t or 1
    padding = -len(latents) % group
    starts = [max(0, k - padding) for k in range(0, len(latents) + padding, group)]
    times = [(latents[a][0], latents[b - 1][1]) for a, b in zip(starts, [*starts[1:], len(latents)], strict=True)]
    return Grid(times=times, rows=height // side, cols=width // side, box=box)
