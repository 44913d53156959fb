"""Files that end early: one that was cut between two packets decodes without an error, and its header says so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av

from components.media.container import bad, open_video

_CUT_SHARE, _CUT_FRAMES = 0.1, 3  # what may be missing of what the header declares


def refuse_cut(path: Path | str, times: Sequence[float], tail: float) -> None:
    """Refuse by its header a file that was cut between two packets: it decodes without an error.

    `times` and `tail` are in seconds: of the frames that decode, and how long the last one stays.

    Raises:
        DataError: more than a tenth of the frames, and more than three, are missing.
    """
    with open_video(path) as (container, stream):
        if container.format.name.startswith("mov"):  # an edit list hides frames and shifts durations: see their places
            size = Path(path).stat().st_size
            missing = sum(entry.pos + entry.size > size for entry in stream.index_entries)
        else:
            missing = _missing_frames(container, stream, times, tail)
    about = len(times) + missing
    if missing > max(_CUT_FRAMES, _CUT_SHARE * about):
        raise bad(path, f"the file ends early: {len(times)} of about {about} frames decode")


def _missing_frames(container: Any, stream: Any, times: Sequence[float], tail: float) -> int:
    """Frames between the last one and the end that the header declares, at the clip's mean rate."""
    declared = 0.0  # where the header declares none (libav would estimate one)
    if container.format.name == "avi":  # its count: libav fits an AVI's durations to the size of the file
        declared = float(stream.frames * stream.time_base)
    elif container.format.name.startswith("matroska"):
        declared = float(container.duration or 0) / float(av.time_base)
    end = max(times[-1], times[-1] - times[0]) + tail
    longest = max((later - earlier for earlier, later in pairwise(times)), default=declared)
    slack = _CUT_FRAMES * longest  # a last frame may stay long
    if end + slack < declared and not stream.duration:  # the duration is the file's, and its sound may be longer
        packets = (packet for packet in container.demux() if packet.pts is not None)
        ends = ((packet.pts + (packet.duration or 0)) * packet.time_base for packet in packets)
        end = max(end, float(max(ends, default=0)))
    return round((declared - end) / (times[-1] - times[0] + tail) * len(times)) if end + slack < declared else 0
