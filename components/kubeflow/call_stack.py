"""A call stack by names alone, in place of `inspect.stack` in kfp, which reads the lines of source of every frame.

kfp 2.17 asks who called at each setting of a task, only to name the method in an error. Python then looks for the
source of every frame in every loaded module: six of the eight seconds of a compilation, which every run begins with.
"""

from __future__ import annotations

import sys
from types import FrameType, SimpleNamespace

from kfp.dsl import pipeline_task

Frame = tuple[FrameType, str, int, str]


def stack() -> list[Frame]:
    """Return frame, file, line and function of every caller: the first four of `inspect.stack`'s fields."""
    found: list[Frame] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found.append((frame, frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return found


def install() -> None:
    """Let kfp's tasks use it; nothing else of `inspect` is used there."""
    pipeline_task.inspect = SimpleNamespace(stack=stack)
