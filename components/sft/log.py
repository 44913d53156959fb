"""The log of a training: one row per step as JSON lines, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from components.core.records import canonical_json
from components.store.backend import Backend

log = logging.getLogger(__name__)
Row = dict[str, Any]


class TrainingLog:
    """Rows of one training, which every process has; `board` is a folder for TensorBoard's files, in one process only.

    TensorBoard's files are copied to the store beside the resume states: for people, part of no result.
    """

    def __init__(self, backend: Backend, key: str, board: Path | None) -> None:
        self.rows: list[Row] = []
        self.backend, self.prefix = backend, f"sft/{key}/tensorboard"
        self.board = SummaryWriter(str(board)) if board is not None else None

    def add(self, row: Row) -> None:
        """Append a step's row; one with validation losses is printed and brings TensorBoard's files to the store."""
        self.rows.append(row)
        numbers = {name: value for name, value in row.items() if name != "step"}
        validated = any(name.startswith("val_") for name in row)
        if validated:
            text = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            log.info("step %d: %s", row["step"], text)
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, row["step"])
            if validated:
                self._publish(self.board)

    def _publish(self, board: SummaryWriter) -> None:
        board.flush()
        for file in Path(board.log_dir).iterdir():
            self.backend.put_file(f"{self.prefix}/{file.name}", file)

    def read(self, file: Path) -> None:
        """Take the rows of a written log."""
        self.rows = [json.loads(line) for line in file.read_text().splitlines()]

    def write(self, file: Path) -> None:
        """Write the rows."""
        file.write_bytes(b"".join(canonical_json(row) + b"\n" for row in self.rows))

    def close(self) -> None:
        """Close TensorBoard's files."""
        if self.board is not None:
            self.board.close()
