"""Frames that the decoder does not vouch for: it conceals what it cannot read, and goes on without an error.

A frame is damaged where the decoder marks it, or reports an error before it comes out; all later ones build on it, up
to the next key frame. What a decoder makes up for one may differ from one reading to the next. VP8, VP9 and HEVC carry
little that a decoder could check: there, damage may stay unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from av import logging


class Damage:
    """Counts damaged frames of a clip, given its frames in presentation order and the errors that grow meanwhile."""

    def __init__(self, errors: Sequence[object]) -> None:
        self.frames = 0
        self._errors, self._seen, self._spoilt = errors, 0, False

    def add(self, frame: Any) -> None:
        """Count the next frame if it is damaged."""
        found = frame.is_corrupt or self._new_errors()
        self._spoilt = found or (self._spoilt and not frame.key_frame)
        self.frames += self._spoilt

    def end(self) -> None:
        """Count errors behind the last frame as one: what they belong to did not come out."""
        self.frames += self._new_errors()

    def _new_errors(self) -> bool:
        before, self._seen = self._seen, len(self._errors)
        return self._seen > before


@contextmanager
def watched() -> Iterator[Damage]:
    """Count what this thread's decoder reports meanwhile; a decoder with threads of its own is not heard."""
    level, skips = logging.get_level(), logging.get_skip_repeated()
    logging.set_level(logging.ERROR)
    logging.set_skip_repeated(False)  # each one counts
    try:
        with logging.Capture(local=True) as errors:
            yield Damage(errors)
    finally:
        logging.set_skip_repeated(skips)
        logging.set_level(level)
