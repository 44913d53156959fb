"""What a manifest's line names, read from the store; a clip's strip: frames, ground truth, prior, VLM's maps.

Legend: T words, F H W the prior's grid; cells are drawn at their true size, one colour scale per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from markupsafe import Markup
from safetensors.numpy import load

from components.core.artifacts import PriorLine, PriorSet, VlmLine
from components.core.records import Clip, Piece, Ref, Sample, ScoredPiece, Video
from components.core.text import CANNOT_READ
from components.core.units import counted
from components.media.sampling import spread
from components.media.video import read_frames
from components.pages.figures import Cell, StripRow, heat, photo, raw, scale_bar, strip
from components.store.entries import Store

_COLUMNS = 6
_NAMED = 8  # unknown words that a warning names


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
        """Return A_VDM [T', F, H, W] of a sample, in fp32."""
        return self.tensors(line.prior)["prior"].astype(np.float32)

    def pieces(self, line: PriorLine) -> list[ScoredPiece]:
        """Return the pieces of a sample's text."""
        return self.store.pieces(line)

    def vlm_map(self, line: VlmLine) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the VLM's map [T, F, H, W], the cells it saw [F, H, W], and which words have a counterpart [T]."""
        assert line.vlm_map is not None
        found = self.tensors(line.vlm_map)
        return found["map"], found["valid"].astype(bool), found["covered"].astype(bool)

    def frames(self, video: Clip, indices: Sequence[int]) -> np.ndarray:
        """Return frames uint8 [n, h, w, 3] of a stored video."""
        if video.id not in self._fetched:
            self._fetched[video.id] = self.store.fetch(video.file)
        return read_frames(self._fetched[video.id], list(indices), video)


def piece_text(sample: Sample, piece: Piece) -> str:
    """Return a piece's characters in the sample's text; its token where it has none."""
    return str(getattr(sample, piece.field))[piece.start : piece.end].strip() or piece.token


@dataclass
class Unread:
    """What the video model could not read of a prior set's texts, each once, and how many samples have any of it."""

    texts: dict[str, None] = field(default_factory=dict)
    samples: int = 0

    def add(self, line: PriorLine) -> None:
        """Take a sample in."""
        texts = (str(getattr(line.sample, span.field))[span.start : span.end] for span in line.unread)
        self.texts |= dict.fromkeys(text.strip() for text in texts)
        self.samples += bool(line.unread)


def unread_warning(priors: PriorSet, unread: Unread) -> str:
    """Return what the video model could not read, and in how many samples; empty where it read everything."""
    warnings = list[str]()
    if unknown := list(unread.texts):
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        named = ", ".join(f"“{text}”" for text in unknown[:_NAMED])
        count = f" ({unread.samples} of {counted(len(priors.lines), 'sample')})" if len(priors.lines) > 1 else ""
        warnings.append(f"The video model does not know {named}{more}: no map shows them{count}.")
    if out := sum(failure.reason.startswith(CANNOT_READ) for failure in priors.left_out):
        warnings.append(f"{counted(out, 'sample')} left out because the video model cannot read the text.")
    return " ".join(warnings)


def words(sample: Sample, pieces: Sequence[ScoredPiece], rows: int) -> list[tuple[str, float]]:
    """Return name and motion score of each row of the sample's prior; without MTTI its one row is all words' mean."""
    chosen = [piece for piece in pieces if piece.selected]
    if len(chosen) == rows:
        return [(piece_text(sample, piece), piece.score) for piece in chosen]
    return [("all words" if rows == 1 else f"row {index}", 0.0) for index in range(rows)]


def nearest_frame(video: Video, start: float, end: float) -> int:
    """Return the index of the frame nearest to the middle of a cell's time."""
    return int(np.abs(np.asarray(video.times) - (start + end) / 2).argmin())


@dataclass(frozen=True)
class Strip:
    """The strip of a clip: at most six of the grid's frames `cells`, the video's `indices` nearest to them."""

    material: Stored
    line: PriorLine

    @cached_property
    def cells(self) -> list[int]:
        """The grid's frames that are shown."""
        count = self.line.grid.shape[0]
        return spread(count, min(_COLUMNS, count))

    @cached_property
    def indices(self) -> list[int]:
        """The video's frames that are shown."""
        return [nearest_frame(self.line.video, *self.line.grid.times[f]) for f in self.cells]

    def frames(self, width: int = 200) -> StripRow:
        """Return the clip's frames, each at most `width` pixels wide."""
        frames = zip(self.material.frames(self.line.video, self.indices), self.indices, strict=True)
        return StripRow("frames", [Cell(photo(frame, width), smooth=True, label=f"frame {i}") for frame, i in frames])

    def maps(
        self, name: str, kind: str, map_FHW: np.ndarray, top: float = 0.0, valid_FHW: np.ndarray | None = None
    ) -> StripRow:
        """Return a map, 0 to `top` (default: the largest value shown), unseen cells veiled."""
        top = top or float(map_FHW[self.cells].max())
        hidden = None if valid_FHW is None else ~valid_FHW
        pictures = []
        for f in self.cells:
            unseen, label = None if hidden is None else hidden[f], f"{kind} {name}, cell {f}"
            pictures.append(Cell(heat(map_FHW[f], top), self.line.grid.box, unseen, label=label))
        return StripRow(name, pictures, scale_bar(top, f"{kind}, × uniform"))

    def draw(self, rows: Sequence[StripRow]) -> Markup:
        """Return the rows under the frames' times."""
        video = self.line.video
        return strip(rows, [f"{video.times[i]:.2f} s" for i in self.indices], video.width, video.height)


def sample_strip(material: Stored, line: PriorLine, seen: Sequence[tuple[str, VlmLine]]) -> Markup:
    """Return six frames of a clip, their mask, the prior of its three strongest words, and the VLM's maps of these."""
    clip, prior_TFHW = Strip(material, line), material.prior(line)
    rows = [clip.frames()]
    if line.mask is not None:
        rows.append(_mask_row(material.tensors(line.mask), clip.indices))
    named = words(line.sample, material.pieces(line), len(prior_TFHW))
    top = sorted(sorted(range(len(named)), key=lambda t: (-named[t][1], t))[:3])
    rows += [clip.maps(f"“{named[t][0]}”", "prior", prior_TFHW[t]) for t in top]
    found = [(name, *_relative(material, one, top)) for name, one in seen if one.vlm_map is not None]
    largest = max((float(map_FHW[clip.cells].max()) for _, map_FHW, _ in found), default=0.0)
    return clip.draw([*rows, *(clip.maps(name, "these words", own, largest, valid) for name, own, valid in found)])


def _mask_row(mask: dict[str, np.ndarray], indices: Sequence[int]) -> StripRow:
    colours = np.array([(38, 42, 52), (112, 120, 134), (45, 212, 191)], np.uint8)
    kinds = np.where(mask["mover"] > 0, 2, (mask["objects"] > 0).astype(int))
    step = max(1, kinds.shape[2] // 160)
    cells = [Cell(photo(colours[kinds[i, ::step, ::step]]), label=f"mask of frame {i}") for i in indices]
    key = raw(
        '<span class="unit"><span class="pair"><i class="swatch mover"></i>moves</span> '
        '<span class="pair"><i class="swatch still"></i>stays</span></span>'
    )
    return StripRow("ground truth", cells, key)


def _relative(material: Stored, line: VlmLine, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the VLM's map relative to uniform, mean over those `rows` that it has words for, and the cells it saw."""
    map_TFHW, valid_FHW, covered_T = material.vlm_map(line)
    covered = np.nonzero(covered_T)[0].tolist()
    usable = [t for t in covered if t in rows] or covered or [0]
    map_FHW = np.where(valid_FHW, map_TFHW[usable].astype(np.float64).mean(0), 0.0)
    mean = map_FHW[valid_FHW].mean() if valid_FHW.any() else 0.0
    return map_FHW / (mean or 1.0), valid_FHW
