"""Readers for what a manifest's lines name: tensors and frames of the store, a prior's words, a cell's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from components.core.artifacts import PriorLine
from components.core.records import Piece, Ref, Sample, Video
from components.media.video import read_frames
from components.store.entries import Store


@dataclass(frozen=True)
class Stored:
    """Reads the objects of a store that a manifest's lines name."""

    store: Store

    @cached_property
    def _fetched(self) -> dict[str, Path]:
        """Local copies of videos, each fetched and verified once."""
        return {}

    def tensors(self, ref: Ref) -> dict[str, np.ndarray]:
        """Return the arrays of a stored safetensors file."""
        found: dict[str, np.ndarray] = load(self.store.read(ref))
        return found

    def prior(self, line: PriorLine) -> np.ndarray:
        """Return A_VDM [T', F, H, W] of a sample."""
        return self.tensors(line.prior)["prior"]

    def frames(self, video: Video, indices: Sequence[int]) -> np.ndarray:
        """Return frames uint8 [n, h, w, 3] of a stored video."""
        if video.id not in self._fetched:
            self._fetched[video.id] = self.store.fetch(video.file)
        return read_frames(self._fetched[video.id], list(indices))


def piece_text(sample: Sample, piece: Piece) -> str:
    """Return a piece's characters in the sample's text; its token where it has none."""
    return str(getattr(sample, piece.field))[piece.start : piece.end].strip() or piece.token


def words(line: PriorLine, rows: int) -> list[tuple[str, float]]:
    """Return name and motion score of each row of the sample's prior; without MTTI its one row is all words' mean."""
    chosen = [piece for piece in line.pieces if piece.selected]
    if len(chosen) == rows:
        return [(piece_text(line.sample, piece), piece.score) for piece in chosen]
    return [("all words" if rows == 1 else f"row {index}", 0.0) for index in range(rows)]


def nearest_frame(video: Video, start: float, end: float) -> int:
    """Return the index of the frame nearest to the middle of a cell's time."""
    return int(np.abs(np.asarray(video.times) - (start + end) / 2).argmin())
