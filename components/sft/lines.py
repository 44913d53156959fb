"""A training's lines on disk: written once, shared by all of its processes, each parsed when it is asked for.

`lines.jsonl` holds one JSON object per sample, its video inline, as they came. `lines.npy` is a table of one row per
sample, in the order of the sample ids: where the line lies, and the columns that split, order and partners follow from.
The table is mapped into memory; of the text a process holds the line that it parses.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.core.artifacts import VlmLine
from components.core.records import sha256
from components.store.backend import disk_error

_TEXT, _TABLE = "lines.jsonl", "lines.npy"
_ROW = np.dtype([("start", "<i8"), ("length", "<i8"), ("sample", "S16"), ("video", "S64"), ("weight", "<f8")])
_CHUNK = 1 << 20  # bytes that are written at once


class SharedLines:
    """Lines of samples in an order of their own."""

    def __init__(self, text: Path, table: NDArray[np.void]) -> None:
        self._text, self._table = text, table

    @classmethod
    def open(cls, folder: Path) -> SharedLines:
        """Open what `write_lines` wrote into a folder."""
        return cls(folder / _TEXT, np.load(folder / _TABLE, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> VlmLine:
        start, length = (int(self._table[index][name]) for name in ("start", "length"))
        with self._text.open("rb") as file:
            file.seek(start)
            return VlmLine.model_validate_json(file.read(length))

    def __iter__(self) -> Iterator[VlmLine]:
        return (self[index] for index in range(len(self)))

    @property
    def videos(self) -> list[str]:
        """Each sample's video, by id."""
        return self._names("video")

    @property
    def weights(self) -> list[float]:
        """How often an epoch shows each sample."""
        return self._table["weight"].tolist()  # type: ignore[no-any-return]

    def by_hash(self) -> list[int]:
        """Return the samples' indices by sha256(id): of a part of them, one new sample changes at most one."""
        hashes = [sha256(name.encode()) for name in self._names("sample")]
        return sorted(range(len(hashes)), key=hashes.__getitem__)

    def take(self, indices: Sequence[int]) -> SharedLines:
        """Return the lines at these indices, in this order."""
        return SharedLines(self._text, self._table[np.array(indices, dtype=int)])

    def _names(self, column: str) -> list[str]:
        return self._table[column].astype(str).tolist()  # type: ignore[no-any-return]


def write_lines(folder: Path, lines: Iterable[VlmLine]) -> None:
    """Write lines for `SharedLines.open`; one of them is held at a time.

    Raises:
        TryAgainError: no space is left.
    """
    rows, chunk, end = list[tuple[int, int, str, str, float]](), bytearray(), 0
    for line in lines:
        text = line.model_dump_json().encode() + b"\n"
        rows.append((end, len(text), line.sample.id, line.video.id, line.sample.weight))
        end += len(text)
        chunk += text
        if len(chunk) >= _CHUNK:
            _append(folder / _TEXT, chunk)
            chunk.clear()
    _append(folder / _TEXT, chunk)
    table, packed = np.array(rows, dtype=_ROW), io.BytesIO()
    np.save(packed, table[np.argsort(table["sample"], kind="stable")])
    _append(folder / _TABLE, packed.getvalue())


def _append(file: Path, data: bytes | bytearray) -> None:
    try:
        with file.open("ab") as handle:
            handle.write(data)
    except OSError as error:
        room = f"it needed {len(data)} bytes more: set TMPDIR to a folder with space, or enlarge it"
        raise disk_error(error, file, f"scratch {file.parent}", room) from error
