"""From what is known of the videos to the plan's table: remembered, to compute, GPU-hours, bytes at each hop, peak memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.media.sampling import encodable
from components.plan.cost import A100_FLOPS, VideoModel, readable_bytes
from components.store.entries import Entry


@dataclass(frozen=True)
class Known:
    """Of a video that was imported before: whether its inversion is remembered, and each sample's capture or None."""

    inverted: bool
    captured: list[Entry | None]


@dataclass(frozen=True)
class Unit:
    """A video: name, frames (decoded, or by its header), words of each sample's text, and what is remembered."""

    name: str
    frames: int
    words: list[int]
    known: Known | None


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table with its columns aligned, so that it reads on a terminal as well."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(cell) for cell in column)) for column in zip(*cells, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in cells]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]


def estimate(
    folder: Path,
    units: Sequence[Unit],
    inversion: Any,
    capture: Any,
    num_steps: int,
    token_ratio: float,
    selected: int | None,
) -> list[str]:
    """The plan's table in Markdown, from the model's config and each clip's own frame count.

    Args:
        folder: the video model's diffusers folder.
        units: the videos.
        inversion: parameters of ddim_inversion.
        capture: parameters of attention_capture.
        num_steps: N.
        token_ratio: share of the tokens that become the prior.
        selected: samples whose token selection is remembered; None where the heads are not chosen yet.
    """
    model = VideoModel.read(folder)
    size = (inversion.height, inversion.width)
    item = 2 if inversion.dtype == "bfloat16" else 4
    rows = [(unit, encodable(min(unit.frames, inversion.num_frames))) for unit in units]
    rows = [(unit, frames) for unit, frames in rows if frames]
    invert = [(unit, frames) for unit, frames in rows if not (unit.known and unit.known.inverted)]
    todo = [
        (words, frames)
        for unit, frames in rows
        for index, words in enumerate(unit.words)
        if not (unit.known and unit.known.captured[index])
    ]
    samples = sum(len(unit.words) for unit, _ in rows)
    hours_invert = (
        sum(model.inversion(frames, *size, num_steps, inversion.fixed_point_iters) for _, frames in invert)
        / A100_FLOPS
        / 3600
    )
    hours_capture = (
        sum(model.capture(frames, *size, num_steps, capture.rows, memory=capture.memory) for _, frames in todo)
        / A100_FLOPS
        / 3600
    )
    trajectories = sum(model.trajectory_bytes(frames, *size, num_steps, item) for _, frames in rows)
    maps = sum(model.map_bytes(frames, *size, words) for unit, frames in rows for words in unit.words)
    priors = sum(4 * token_ratio * words * model.tokens(frames, *size) for unit, frames in rows for words in unit.words)
    peak = max((model.peak_bytes(frames, *size, capture.rows, max(unit.words)) for unit, frames in rows), default=0)
    imported = sum(unit.known is not None for unit, _ in rows)
    rest: tuple[object, object] = ("–", f"≤ {samples}") if selected is None else (selected, samples - selected)
    lines = [
        ("dataset_import", imported, len(rows) - imported, "–", "the videos"),
        (
            "ddim_inversion",
            len(rows) - len(invert),
            len(invert),
            f"{hours_invert:.3g}",
            f"{readable_bytes(trajectories)} (scratch)",
        ),
        ("attention_capture", samples - len(todo), len(todo), f"{hours_capture:.3g}", readable_bytes(maps)),
        ("token_selection", *rest, "–", readable_bytes(priors)),
    ]
    return [
        *table(("step", "remembered", "to compute", "A100-hours", "bytes"), lines),
        "",
        f"Peak of what capture adds on the device: {readable_bytes(peak)}. Hours at 184 TFLOP/s in bf16.",
    ]
