"""`samples.parquet` of an exported prior set: one typed row per sample, for pandas, DuckDB and Hugging Face `datasets`.

It repeats what the manifest's lines and their pieces say, for tools that know neither; paths are below the folder. The
README's header names it, so that `datasets.load_dataset(folder)` opens this file and no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.artifacts import PriorLine
from components.core.records import Head, Json, ScoredPiece

if TYPE_CHECKING:
    import pyarrow

FILE = "samples.parquet"
_HEADER = f"---\nconfigs:\n- config_name: default\n  data_files: {FILE}\n---\n"
_STRUCTS = {  # types beside Arrow's own
    "span": {"start": "double", "end": "double"},
    "box": {"top": "double", "bottom": "double", "left": "double", "right": "double"},
    "piece": {
        **{"index": "int32", "token": "string", "field": "string", "start": "int32", "end": "int32"},
        **{"score": "double", "standardized": "double", "selected": "bool"},
    },
}
_LIST = " list"
COLUMNS = {  # type (Arrow's, one of `_STRUCTS`, or a list of these) and what it is
    "sample": ("string", "the sample's id"),
    "uid": ("string", "the source's own name for it"),
    "source": ("string", "what a recipe of several sources calls the sample's own"),
    "weight": ("double", "how often it is seen in an epoch of a training"),
    "question": ("string", "of the sample"),
    "response": ("string", "of the sample"),
    "video": ("string", "path of the video's file"),
    "video_id": ("string", "the file's sha256; a part of a file has its own id"),
    "video_name": ("string", "path in its source"),
    "first_frame": ("int32", "index in the file of a part's first frame; null where the clip is all of it"),
    "video_frames": ("int32", "frames of the clip"),
    "duration": ("double", "seconds"),
    "width": ("int32", "pixels, as shown"),
    "height": ("int32", "pixels, as shown"),
    "prior": ("string", "path of A_VDM: tensor `prior` [selected pieces, frames, rows, cols], 1 = uniform attention"),
    "per_frame": ("string", "path of A_t2f: tensor `per_frame` [pieces, frames]"),
    "statistics": ("string", "path of the measures of every head"),
    "frames": ("int32", "cells of a map in time"),
    "rows": ("int32", "cells of a map from top to bottom"),
    "cols": ("int32", "cells of a map from left to right"),
    "times": ("span list", "of each frame of a map: seconds of the clip"),
    "box": ("box", "where the cells lie, as shares of the video's frame"),
    "heads": ("int32 list", "heads of the video model that were chosen"),
    "layers": ("int32 list", "the layer of each of `heads`; null where maps are averaged over the layers"),
    "confidence": ("double", "√(concentration · dynamics), 0 to 1"),
    "concentration": ("double", "0 to 1"),
    "dynamics": ("double", "0 to 1"),
    "piece_count": ("int32", "text tokens"),
    "selected_count": ("int32", "text tokens that were selected"),
    "pieces": ("piece list", "text tokens: characters `start` to `end` of `field`, motion score, whether selected"),
    "truncated": ("int32", "characters of the text beyond the text encoder's length"),
}


def readme(card: str) -> str:
    """Return an exported set's README: the header that `datasets` reads, the set's card, and what the columns are."""
    rows = "".join(f"| `{name}` | {kind} | {about} |\n" for name, (kind, about) in COLUMNS.items())
    how = f"`{FILE}` has one row per sample. Paths are below this folder; tensors are safetensors."
    structs = "".join(f"* `{name}`: {', '.join(fields)}\n" for name, fields in _STRUCTS.items())
    columns = f"{how}\n\n| column | type | what |\n|---|---|---|\n{rows}\nTypes of several fields:\n\n{structs}"
    return f"{_HEADER}\n{card.rstrip()}\n\n## Columns\n\n{columns}"


class SampleTable:
    """Writes the table into an exported folder, a row group per call of `write`; entered and left by `with`."""

    def __init__(self, folder: Path) -> None:
        from pyarrow.parquet import ParquetWriter

        self._writer = ParquetWriter(folder / FILE, _schema(), compression="zstd")

    def write(self, samples: Iterable[tuple[PriorLine, Sequence[ScoredPiece]]]) -> None:
        """Add samples with their pieces."""
        import pyarrow

        rows = [_row(line, pieces) for line, pieces in samples]
        self._writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema=_schema()))

    def __enter__(self) -> SampleTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


@cache
def _schema() -> pyarrow.Schema:
    import pyarrow

    def parsed(name: str) -> pyarrow.DataType:
        if name.endswith(_LIST):
            return pyarrow.list_(parsed(name.removesuffix(_LIST)))
        if name in _STRUCTS:
            return pyarrow.struct([(key, parsed(kind)) for key, kind in _STRUCTS[name].items()])
        return pyarrow.type_for_alias(name)

    return pyarrow.schema([(name, parsed(kind)) for name, (kind, _) in COLUMNS.items()])


def _row(line: PriorLine, pieces: Sequence[ScoredPiece]) -> Json:
    sample, video, grid = line.sample, line.video, line.grid
    return {
        "sample": sample.id,
        **sample.model_dump(include={"uid", "question", "response"}),
        **{"source": sample.source, "weight": sample.weight},  # a dump leaves them out where they are the default
        **{"video": video.file.path, "video_id": video.id, "video_name": video.name},
        "first_frame": video.part and video.part.first,
        "video_frames": len(video.times),
        **video.model_dump(include={"duration", "width", "height"}),
        **{"prior": line.prior.path, "per_frame": line.per_frame.path, "statistics": line.statistics.path},
        **{"frames": len(grid.times), "rows": grid.rows, "cols": grid.cols},
        "times": [dict(zip(_STRUCTS["span"], cell, strict=True)) for cell in grid.times],
        "box": dict(zip(_STRUCTS["box"], grid.box, strict=True)),
        **_heads(line.heads),
        "confidence": line.confidence.value,
        **line.confidence.model_dump(include={"concentration", "dynamics"}),
        "piece_count": len(pieces),
        "selected_count": sum(piece.selected for piece in pieces),
        "pieces": [piece.model_dump() for piece in pieces],
        "truncated": line.truncated,
    }


def _heads(chosen: Sequence[Head]) -> Json:
    pairs = [(None, head) if isinstance(head, int) else head for head in chosen]
    layers = [layer for layer, _ in pairs]
    return {"heads": [head for _, head in pairs], "layers": None if None in layers else layers}
