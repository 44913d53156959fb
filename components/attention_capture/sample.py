"""One sample's capture: reconstruct its video under its text, read the attention, reduce it to what is kept.

Legend: N1 noise levels, F C y x latents, h heads, T text pieces, S vision tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from components.attention_capture.capture import CaptureSpec
from components.attention_capture.maps import HeadReductions
from components.attention_capture.memory import reconstruct_with_memory
from components.attention_capture.settings import Params
from components.core.errors import DataError
from components.core.records import Piece, sha256
from components.core.text import Part
from components.ddim_inversion.ddim import levels
from components.head_selection.scores import HeadStatistics, head_statistics
from components.models.video.interface import VideoModel
from components.store.tensors import pack


@dataclass(frozen=True)
class Captured:
    """What one reconstruction tells of a sample."""

    pieces: list[Piece]
    truncated: int
    density_hTS: Float[Tensor, "h T S"]
    statistics: HeadStatistics
    reductions: HeadReductions
    reconstruction: Float[Tensor, "1 F C y x"]


def unit_seed(seed: int, unit: str) -> int:
    """Return the seed of one unit's random draws: other units and their order do not matter."""
    return int(sha256(f"{seed}:{unit}".encode())[:15], 16)


def text_pieces(vdm: VideoModel, text: str, parts: Sequence[Part], source: str) -> list[Piece]:
    """Return the text encoder's tokens as characters of the sample's fields.

    Raises:
        DataError: no token carries text.
    """
    pieces = [
        Piece(
            index=piece.index,
            token=piece.token,
            field=part.field,
            start=piece.start - part.start,
            end=piece.end - part.start,
        )
        for piece in vdm.tokenize(text)
        for part in parts
        if part.start <= piece.start and piece.end <= part.start + len(part.text)
    ]
    if not pieces:
        raise DataError(
            "the text encoder finds no token in the text", source=f"sample {source}", remedy="check the text"
        )
    return pieces


def capture_sample(
    vdm: VideoModel,
    trajectory: Float[Tensor, "N1 F C y x"],
    text: str,
    parts: Sequence[Part],
    settings: Params,
    num_steps: int,
    seed: int,
    unit: str,
) -> Captured:
    """Reconstruct from the trajectory under `text` and capture the conditional main stream (method step 2).

    Args:
        vdm: the video model.
        trajectory: latents of all N+1 levels.
        text: the conditioning text.
        parts: where the sample's fields lie in it.
        settings: the step's parameters.
        num_steps: N.
        seed: the run's seed; draws are seeded by it and `unit`.
        unit: the sample's id.
    """
    pieces = text_pieces(vdm, text, parts, unit)
    frames, _, height, width = trajectory.shape[1:]
    own_seed = unit_seed(seed, unit)
    spec = CaptureSpec(
        text_indices=tuple(piece.index for piece in pieces),
        grid=vdm.patch_grid((frames, height, width)),
        norm=settings.norm,
        rows=settings.rows,
        seed=own_seed,
        memory=settings.memory,
    )
    found = reconstruct_with_memory(
        vdm,
        trajectory[:, None],
        levels(vdm.alphas_cumprod, num_steps),
        vdm.encode_text(text),
        settings.guidance_scale,
        settings.start,
        spec,
        memory=settings.memory,
        seed=own_seed,
    )
    assert found.maps is not None
    reductions = found.maps.reduce()
    statistics = head_statistics(
        reductions.diag_hPFF, reductions.tau_map, reductions.sum_not_m, reductions.sum_not_m_error, f"sample {unit}"
    )
    density = found.maps.t2v.cpu() * spec.num_video_tokens
    return Captured(pieces, vdm.truncated(text), density, statistics, reductions, found.trajectory[0])


def pack_maps(captured: Captured, unit: str) -> bytes:
    """Return t2v of all heads as density relative to uniform, fp16: unscaled values would be subnormal there."""
    return pack({"t2v": captured.density_hTS.half()}, f"sample {unit}")


def pack_statistics(captured: Captured, unit: str) -> bytes:
    """Return the head statistics, float64."""
    return pack(captured.statistics.tensors(), f"sample {unit}")
