"""The clip that rows are about, from what is remembered of its file: the whole of it, or a part."""

from __future__ import annotations

from components.core.records import Video
from components.media.parts import Seconds, cut
from components.store.entries import Entry

NO_MOTION = "an image: it has no motion to learn from"


def clip(entry: Entry, part: Seconds | None, task: str, name: str) -> Video:
    """Return a file's video, or a part of it; `task` is the one whose rerun imports the file again.

    Raises:
        DataError: the file has no such part.
    """
    found = entry.numbers
    if part is None:
        return Video(file=entry.ref("video", task), name=name, **found)
    frames, times, duration = cut(found["times"], found["duration"], part, name)
    # which frames are damaged is not known: at most as many as in the whole file
    own = {"times": times, "duration": duration, "corrupt": min(found["corrupt"], frames.count), "part": frames}
    return Video(file=entry.ref("video", task), name=name, **found | own)
