"""The training log."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from components.core.records import canonical_json
from components.store.backend import Backend

log = logging.getLogger(__name__)
Row = dict[str, Any]


class TrainingLog:
    """One row per step, which every process has; `board` is a folder for TensorBoard's files, in one process only.

    TensorBoard's files are copied to the store beside the resume states: for people, part of no result.
    """

    def __init__(self, backend: Backend, key: str, board: Path | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.rows: list[Row] = []
        self.backend, self.prefix = backend, f"sft/{key}/tensorboard"
        self.board = SummaryWriter(str(board)) if board is not None else None

    def add(self, row: Row) -> None:
        """Append a step's row; one with validation losses is printed and brings TensorBoard's files to the store."""
        self.rows.append(row)
        numbers = {name: value for name, value in row.items() if name != "step"}
        if validated := any(name.startswith("val_") for name in row):
            log.info("step %d: %s", row["step"], ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
        if self.board is None:
            return
        for name, value in numbers.items():
            self.board.add_scalar(name, value, row["step"])
        if validated:
            self.board.flush()
            for file in Path(self.board.log_dir).iterdir():
                self.backend.put_file(f"{self.prefix}/{file.name}", file)

    def read(self, data: bytes) -> None:
        """Take the rows of a written log."""
        self.rows = [json.loads(line) for line in data.splitlines()]

    def text(self) -> bytes:
        """Return the rows as JSON lines."""
        return b"".join(canonical_json(row) + b"\n" for row in self.rows)

    def close(self) -> None:
        """Close TensorBoard's files."""
        if self.board is not None:
            self.board.close()
