"""One sample's capture: reconstruct its video under its text, read the attention, reduce it to what is kept.

Under `keep: selected` heads are chosen here, by the function that head_selection chooses with, and the mean over those
is kept. Under `granularity: layer_head` these are heads of single layers.

Legend: N1 noise levels, F C y x latents, h heads (of all layers one after the other, where these are apart), T text
pieces, S vision tokens, n picture side, B pictured places, Z frames of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from components.attention_capture.capture import CaptureSpec
from components.attention_capture.maps import CapturedMaps
from components.attention_capture.memory import reconstruct_with_memory
from components.attention_capture.settings import Params
from components.core.errors import DataError
from components.core.records import Head, Piece, Span, sha256
from components.core.text import CANNOT_READ, Part
from components.head_selection.scores import HeadStatistics, choose, head_statistics, joined
from components.models.video.interface import VideoModel, unread_characters


@dataclass(frozen=True)
class Captured:
    """What one reconstruction gives of a sample.

    Attributes:
        density: A_t2v relative to uniform, of all heads or the mean over `heads`.
        heads: those that were chosen; None where all are kept.
        thumbnail_hnn: of each head's v2v map, as `HeadReductions`.
        block_hBZZ: its exact blocks of a few places.
    """

    pieces: list[Piece]
    unread: list[Span]  # characters that the text encoder has no token for
    truncated: int
    density: Float[Tensor, "h T S"] | Float[Tensor, "T S"]
    heads: list[Head] | None
    statistics: HeadStatistics
    thumbnail_hnn: Float[Tensor, "h n n"]
    block_hBZZ: Float[Tensor, "h B Z Z"]
    reconstruction: Float[Tensor, "1 F C y x"]


def read_text(
    vdm: VideoModel, text: str, parts: Sequence[Part], max_unreadable: float, source: str
) -> tuple[list[Piece], list[Span]]:
    """Return the text encoder's tokens as characters of the sample's fields, and the characters that it cannot read.

    Raises:
        DataError: no token carries text, or a larger share than `max_unreadable` of the characters cannot be read.
    """
    found = vdm.read_text(text)
    unread, every = unread_characters(found)
    if unread > max_unreadable * every:
        problem = f"{CANNOT_READ} {unread} of {every} characters of the text, max_unreadable is {max_unreadable:g}"
        raise DataError(problem, source=f"sample {source}", remedy="give a text in a language that it was trained on")
    pieces, unknown = list[Piece](), list[Span]()
    for piece in found:
        for part in parts:
            start, end = piece.start - part.start, piece.end - part.start
            if start < 0 or end > len(part.text):
                continue
            if piece.known:
                pieces.append(Piece(index=piece.index, token=piece.token, field=part.field, start=start, end=end))
            else:
                unknown.append(Span(field=part.field, start=start, end=end))
    if not pieces:
        problem = "the text encoder finds no token in the text"
        raise DataError(problem, source=f"sample {source}", remedy="check the text")
    return pieces, unknown


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

    `trajectory` holds the latents of all N+1 levels, `parts` where the sample's fields lie in `text`. Draws are seeded
    by the run's `seed` and by `unit`, the sample's id.
    """
    pieces, unread = read_text(vdm, text, parts, settings.max_unreadable, unit)
    frames, _, height, width = trajectory.shape[1:]
    own_seed = int(sha256(f"{seed}:{unit}".encode())[:15], 16)  # other units and their order do not matter
    spec = CaptureSpec(
        text_indices=tuple(piece.index for piece in pieces),
        grid=vdm.patch_grid((frames, height, width)),
        seed=own_seed,
        rows=settings.sampled_rows,
        layers=None if settings.granularity == "head" else vdm.sizes.layers,
        **settings.model_dump(include={"norm", "memory"}),
    )
    schedule, embeds = vdm.levels(num_steps), vdm.encode_text(text)
    how = settings.model_dump(include={"guidance_scale", "start", "memory"})
    found = reconstruct_with_memory(vdm, trajectory[:, None], schedule, embeds, capture=spec, seed=own_seed, **how)
    maps, calls = found.maps, num_steps * vdm.sizes.layers
    assert maps is not None
    assert maps.count == calls, f"{maps.count} calls of attention layers, {calls} by the model's sizes"
    statistics, thumbnails, blocks = _reduced(maps, f"sample {unit}")
    heads: list[Head] | None = None
    if settings.keep == "all":
        t2v = maps.t2v
    else:
        choice = choose(statistics, **settings.selection.model_dump())
        heads, t2v = choice.named, _mean_over(maps, choice.heads)
    density = t2v.cpu() * spec.num_video_tokens
    read, reduced = (pieces, unread, vdm.truncated(text)), (statistics, thumbnails, blocks)
    return Captured(*read, density, heads, *reduced, found.trajectory[0])


def _reduced(
    maps: CapturedMaps, source: str
) -> tuple[HeadStatistics, Float[Tensor, "h n n"], Float[Tensor, "h B Z Z"]]:
    """Return the statistics and the picture material of all heads; blocks of one layer at a time are in main memory."""
    found = []
    for part in maps.per_layer or [maps]:
        reduced = part.reduce()
        off_m = (reduced.tau_map, reduced.sum_not_m, reduced.sum_not_m_error)
        own = head_statistics(reduced.diag_hPFF, *off_m, source)
        found.append((own, reduced.thumbnail_hnn, reduced.block_hBFF))
    statistics, thumbnails, blocks = zip(*found, strict=True)
    return joined(statistics) if maps.per_layer else statistics[0], torch.cat(thumbnails), torch.cat(blocks)


def _mean_over(maps: CapturedMaps, heads: Sequence[int]) -> Float[Tensor, "T S"]:
    """Return the mean of t2v over some heads, which are counted on through the layers where these are apart."""
    parts, first, sums = maps.per_layer or [maps], 0, []
    for part in parts:
        own = [head - first for head in heads if first <= head < first + part.heads]
        sums.append(part.t2v_sum(own))
        first += part.heads
    return torch.stack(sums).sum(0) / len(heads)
