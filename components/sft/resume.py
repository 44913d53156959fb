"""Resume states of a training at `<store>/sft/<key>/resume/step-<n>/`: accelerate's files, scratch of one cache entry.

A state counts once its `complete.json` is there, written last. The step number alone says which samples come next, so a
resumed run continues in mid-epoch exactly.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath

from components.core.records import canonical_json
from components.store.backend import Backend

log = logging.getLogger(__name__)
_DONE = "complete.json"


class ResumeStates:
    """The states of one training."""

    def __init__(self, backend: Backend, key: str) -> None:
        self.backend, self.prefix = backend, f"sft/{key}/resume"

    def steps(self) -> list[int]:
        """Return the steps of the complete states, ascending."""
        pattern = re.compile(re.escape(self.prefix) + rf"/step-(\d+)/{re.escape(_DONE)}$")
        return sorted(
            int(match.group(1)) for item in self.backend.walk(self.prefix) if (match := pattern.search(item.path))
        )

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
            target = folder / PurePosixPath(item.path).relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            local = self.backend.local(item.path)
            assert local is not None, item.path
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
