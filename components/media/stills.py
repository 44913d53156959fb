"""Still frames of a video, one file each, packed into one file: every picture's bytes as they are, one per second.

A QuickTime file holds JPEG and PNG pictures. It carries no date and no version, so equal frames give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av

from components.media.container import bad
from components.media.picture import picture_kind

_DEMUXERS = {"JPEG": "jpeg_pipe", "PNG": "png_pipe"}
_CLOCK = Fraction(1, 1000)  # seconds


def pack_stills(frames: Sequence[Path], target: Path) -> None:
    """Write `frames`, in their order, as a video of one frame per second.

    Frames are sampled from a longer clip, nobody says when: at this rate a model that looks once per second sees each.

    Raises:
        DataError: a frame is no JPEG or PNG picture, or the frames are of both kinds.
    """
    kinds = {frame: picture_kind(frame) for frame in frames}
    kind = kinds[frames[0]]
    if kind is None or kind not in _DEMUXERS or set(kinds.values()) != {kind}:
        found = ", ".join(sorted({one or "no picture" for one in kinds.values()}))
        raise bad(frames[0], f"frames that are {found}", "give all frames of a video as JPEG, or all as PNG")
    with av.open(str(target), "w", format="mov", container_options={"fflags": "+bitexact"}) as container:
        try:
            with av.open(str(frames[0]), format=_DEMUXERS[kind], options={"protocol_whitelist": "file"}) as first:
                stream = container.add_stream_from_template(first.streams.video[0])
        except av.FFmpegError as error:
            raise bad(frames[0], f"the picture does not decode: {error}") from error
        stream.time_base = _CLOCK
        for second, frame in enumerate(frames):
            packet = av.Packet(frame.read_bytes())
            packet.stream, packet.time_base, packet.is_keyframe = stream, _CLOCK, True
            packet.pts = packet.dts = int(second / _CLOCK)
            packet.duration = int(1 / _CLOCK)
            container.mux(packet)
