"""`read_priors(folder)`: an exported prior set in one's own script, a sample at a time, verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from components.core.artifacts import PriorSet
from components.core.errors import DataError
from components.core.records import Grid, Ref, Sample, ScoredPiece, sha256
from components.store.tensors import unpack
from components.store.transfer import exported_manifest, own_path


@dataclass(frozen=True)
class Prior:
    """One sample of an exported prior set. `map_TFHW` is A_VDM in fp32, density relative to uniform."""

    sample: Sample
    pieces: list[ScoredPiece]
    grid: Grid
    confidence: float
    map_TFHW: Float[Tensor, "T F H W"]
    video: Path


def read_priors(folder: Path | str) -> Iterator[Prior]:
    """Iterate over an exported prior set: each sample's words, scores and maps, verified.

    Raises:
        DataError: the folder is no exported prior set, names files outside of it, or a file is damaged.
    """
    folder = Path(folder)

    def read(ref: Ref) -> bytes:
        file = folder / own_path(ref, str(folder))
        data = file.read_bytes() if file.is_file() else b""
        if sha256(data) != ref.sha256:
            raise DataError(f"{ref.path} is damaged or missing", source=str(folder), remedy="export it again")
        return data

    for line in exported_manifest(folder, PriorSet).lines:
        pieces = line.parse_pieces(read(line.pieces)) if isinstance(line.pieces, Ref) else line.pieces
        video = folder / own_path(line.video.file, str(folder))
        maps = unpack(read(line.prior))["prior"].float()
        yield Prior(line.sample, pieces, line.grid, line.confidence.value, maps, video)
