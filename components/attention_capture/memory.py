"""Two-stream reconstruction (method step 2, Algorithm 1): from inverted noise down, with cross-stream memory.

At each step the batch is [uncond, cond, reference, reference]: the reference rows are the inverted latent of the same
noise level under the same two texts, and the main rows attend to the union of their own and the reference's keys and
values. Guidance is v = v_uncond + g·(v_cond − v_uncond); at g = 1 the unconditional rows are left out. They are also
left out of a guidance-distilled model, whose network is given g instead, and whose reference rows run under the same g.

Legend: N1 = N + 1 noise levels, F C h w latent frames, channels, rows, columns.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from components.attention_capture.capture import CapturedMaps, CaptureSpec, capture_attention, cross_stream_memory
from components.attention_capture.settings import Start
from components.core.errors import ParameterError
from components.ddim_inversion.ddim import reconstruct
from components.models.video.interface import EncodedText, VideoModel
from components.models.video.noise import Levels


class Reconstruction(NamedTuple):
    """Latents of all levels on the way down (entry 0 is the reconstruction), and what was captured."""

    trajectory: Float[Tensor, "N1 1 F C h w"]
    maps: CapturedMaps | None


def reconstruct_with_memory(
    vdm: VideoModel,
    trajectory: Float[Tensor, "N1 1 F C h w"],
    schedule: Levels,
    text: EncodedText,
    guidance_scale: float = 6.0,
    start: Start = "inverted",
    capture: CaptureSpec | None = None,
    *,
    memory: bool = True,
    negative: EncodedText | None = None,
    seed: int = 0,
) -> Reconstruction:
    """Reconstruct a video from its inverted trajectory.

    Args:
        vdm: the video model.
        trajectory: latents of all levels from the inversion; entry k is level k.
        schedule: the same levels.
        text: the encoded text.
        guidance_scale: g ≥ 1.
        start: from the inverted noise, or from random noise (then the reference keys carry the video).
        capture: what to capture of the conditional main stream; its `memory` must agree.
        memory: False leaves the reference out.
        negative: the unconditional text; the empty one if None.
        seed: of random noise.

    Raises:
        ParameterError: levels that do not fit, an unknown start, g < 1, or a capture of the other layout.
    """
    if len(trajectory) != len(schedule):
        problem = f"{len(trajectory)} latents for {len(schedule)} levels"
        raise ParameterError(problem, source="trajectory, num_steps", remedy="use the num_steps of the inversion")
    if start not in ("inverted", "noise") or guidance_scale < 1:
        problem = f"start = {start!r}, guidance_scale = {guidance_scale}"
        remedy = "choose inverted or noise, and a scale ≥ 1"
        raise ParameterError(problem, source="start, guidance_scale", remedy=remedy)
    if capture is not None and capture.memory != memory:
        problem = f"capture.memory = {capture.memory}, memory = {memory}"
        raise ParameterError(problem, source="CaptureSpec.memory", remedy="give both the same value")
    guided = guidance_scale > 1 and not vdm.sizes.distilled
    network = vdm.guided(guidance_scale) if vdm.sizes.distilled else vdm
    texts = [vdm.encode_text("") if negative is None else negative, text] if guided else [text]
    reference = {schedule.timestep(k): trajectory[k].to(vdm.device) for k in range(1, len(trajectory))}

    def velocity(x: Tensor, timestep: float) -> Tensor:
        rows = [x.expand(len(texts), *x.shape[1:])]
        if memory:
            rows.append(reference[timestep].to(x.dtype).expand_as(rows[0]))
        v = network.velocity(torch.cat(rows), timestep, EncodedText.batch(texts * len(rows)))[: len(texts)]
        return v[:1] + guidance_scale * (v[1:] - v[:1]) if guided else v

    noise = trajectory[-1]
    if start == "noise":
        noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed))
    with ExitStack() as stack:
        maps = None
        if capture is not None:
            maps = stack.enter_context(capture_attention(vdm.transformer, capture))
        elif memory:
            stack.enter_context(cross_stream_memory(vdm.transformer))
        states = reconstruct(velocity, noise.to(vdm.device), schedule)
    return Reconstruction(states.to(trajectory.dtype), maps)
