"""Clips of every kind that the tests of decoding need, encoded by PyAV from frames that carry their own number."""

from fractions import Fraction

import av
import numpy as np


def moving(n, height=96, width=160):
    """Smooth noise under a bar that moves: every frame differs, and damage shows."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.repeat(ground[None], n, 0)
    for i in range(n):
        frames[i] = np.roll(ground, 2 * i, 1)
        frames[i, :, (3 * i) % width : (3 * i) % width + 6] = (40 + 5 * i) % 250
    return frames


def encode(path, frames, codec="libx264", fmt=None, pix_fmt="yuv420p", rate=25, aspect=None, mux=None, **options):
    """Write the frames at a constant rate."""
    with av.open(str(path), "w", format=fmt, options=mux) as container:
        stream = container.add_stream(
            codec, rate=rate, options={"threads": "1"} | {k: str(v) for k, v in options.items()}
        )
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def spoil(path, number):
    """Clear the packet `number` of an H.264 clip behind its headers: its frame is concealed."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    start, size = packets[number]
    data[start + 20 : start + size] = bytes(size - 20)
    path.write_bytes(data)
    return path


# Ways in which a clip may come: name, codec, and options of `encode`
VARIANTS = {
    "plain.mp4": {},
    "open.mp4": {"x264-params": "open-gop=1:keyint=10:min-keyint=10", "bf": 3},
    "short.mp4": {"g": 5, "bf": 0},
    "pyramid.mp4": {"g": 20, "bf": 5},
    "refresh.mp4": {"x264-params": "intra-refresh=1:keyint=15"},
    "intra.mp4": {"g": 1},
    "lossless.mp4": {"qp": 0, "pix_fmt": "yuv444p"},
    "pieces.mp4": {"mux": {"movflags": "frag_keyframe+empty_moov"}, "g": 12},
    "plain.mov": {"g": 12},
    "plain.mkv": {"g": 12, "bf": 2},
    "plain.ts": {"fmt": "mpegts", "g": 12, "bf": 2},
    "plain.flv": {"g": 12},
    "plain.avi": {"g": 12, "bf": 0},
    "reordered.avi": {},
    "reordered-short.avi": {"g": 10, "bf": 2},
    "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none:keyint=12"},
    "hevc.mkv": {"codec": "libx265", "x265-params": "log-level=none:keyint=15:bframes=4"},
    "vp8.webm": {"codec": "libvpx", "g": 12},
    "vp9.webm": {"codec": "libvpx-vp9", "g": 12},
    "vp9.mp4": {"codec": "libvpx-vp9", "g": 20},
    "av1.mp4": {"codec": "libsvtav1", "g": 16, "preset": 12},
    "mpeg4.mp4": {"codec": "mpeg4", "g": 12, "bf": 2},
    "mpeg4.avi": {"codec": "mpeg4", "g": 12},
    "mpeg4-reordered.avi": {"codec": "mpeg4", "g": 12, "bf": 2, "qmax": 3},
    "mpeg2.ts": {"codec": "mpeg2video", "fmt": "mpegts", "g": 12, "bf": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "g": 12},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "flv1.flv": {"codec": "flv", "g": 12},
    "wmv2.wmv": {"codec": "wmv2", "fmt": "asf", "g": 12},
    "picture.gif": {"codec": "gif", "pix_fmt": "rgb8", "rate": 10},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
}
