"""What a training keeps in the store while it runs: resume states and TensorBoard's files, scratch of one cache entry.

A state, `<store>/sft/<key>/resume/step-<n>/`, counts once its `complete.json` is there, written last. The step number
alone says which samples come next, so a resumed run continues in mid-epoch exactly.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path, PurePosixPath
from typing import Any

from components.core.records import canonical_json
from components.store.backend import Backend

log = logging.getLogger(__name__)
Row = dict[str, Any]
_DONE = "complete.json"


class ResumeStates:
    """The states of one training."""

    def __init__(self, backend: Backend, key: str) -> None:
        self.backend, self.prefix = backend, f"sft/{key}/resume"

    def steps(self) -> list[int]:
        """Return the steps of the complete states, ascending."""
        done = re.compile(re.escape(self.prefix) + rf"/step-(\d+)/{re.escape(_DONE)}$")
        return sorted(int(match[1]) for item in self.backend.walk(self.prefix) if (match := done.search(item.path)))

    def save(self, folder: Path, step: int, keep_last: int) -> None:
        """Upload a state's folder, then delete older ones beyond `keep_last`."""
        target = f"{self.prefix}/step-{step:08d}"
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.backend.put_file(f"{target}/{file.relative_to(folder).as_posix()}", file)
        self.backend.put(f"{target}/{_DONE}", canonical_json({"step": step}))
        for old in self.steps()[:-keep_last]:
            self._delete(f"{self.prefix}/step-{old:08d}")

    def load(self, step: int, folder: Path) -> Path:
        """Return a state's files as a local folder."""
        source = f"{self.prefix}/step-{step:08d}"
        for item in self.backend.walk(source):
            target, local = folder / PurePosixPath(item.path).relative_to(source), self.backend.local(item.path)
            assert local is not None, item.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(local.absolute())
        log.info("resuming after step %d", step)
        return folder

    def clear(self) -> None:
        """Delete all states: the training is finished, or must start from its beginning."""
        self._delete(self.prefix)

    def _delete(self, prefix: str) -> None:
        # the marker goes first: a state that is half deleted must not count
        for item in sorted(self.backend.walk(prefix), key=lambda item: not item.path.endswith(_DONE)):
            self.backend.delete(item.path)


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

    def read(self, file: Path) -> None:
        """Take the rows of a written log."""
        self.rows = [json.loads(line) for line in file.read_text().splitlines()]

    def write(self, file: Path) -> None:
        """Write the rows as JSON lines."""
        file.write_bytes(b"".join(canonical_json(row) + b"\n" for row in self.rows))

    def close(self) -> None:
        """Close TensorBoard's files."""
        if self.board is not None:
            self.board.close()
