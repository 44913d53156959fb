"""Decoding against files whose frames carry their own number, in every container and clock that broke some decoder."""

import itertools
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from components.core.errors import DataError, ParameterError
from components.media.video import header, iterate_frames, motion_profile, probe, read_frames, write_mp4
from tests.command import python

H, W, BITS = 48, 96, 6


def numbered(n):
    """Frame i shows i in binary, a bit a column, in the upper half (so that turning it would be seen)."""
    frames = np.full((n, H, W, 3), 90, np.uint8)
    for i in range(n):
        for bit in range(BITS):
            frames[i, : H // 2, bit * 16 : (bit + 1) * 16] = 255 * (i >> bit & 1)
    return frames


def number(frame):
    return sum(int(frame[H // 4, bit * 16 + 8].mean() > 127) << bit for bit in range(BITS))


def write(path, times, codec="libx264", fmt=None, tick=1, mux=None, **options):
    """Frames at `times` (milliseconds), on a clock of `tick` milliseconds; `mux` are options of the container."""
    with av.open(str(path), "w", format=fmt, options=mux) as container:
        stream = container.add_stream(codec, rate=25, options={k: str(v) for k, v in options.items()})
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(tick, 1000)
        for picture, time in zip(numbered(len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time // tick, Fraction(tick, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


CONSTANT = [40 * i for i in range(40)]
VARIABLE = list(itertools.accumulate([0, *([20, 90, 40] * 13)]))
CASES = {
    "cfr.mp4": (CONSTANT, {"bf": 3, "g": 12}),
    "vfr.mp4": (VARIABLE, {"bf": 3, "g": 12}),
    "late.mkv": ([3000 + t for t in CONSTANT], {"bf": 2, "g": 12}),
    "late-vfr.mkv": ([3000 + t for t in VARIABLE], {"bf": 2, "g": 12}),
    "clip.webm": (CONSTANT, {"codec": "libvpx-vp9"}),
    "stream.ts": (CONSTANT, {"fmt": "mpegts", "bf": 2, "g": 12}),
}


@pytest.mark.parametrize("name", CASES)
def test_numbered_frames(name, tmp_path):
    times, options = CASES[name]
    path = write(tmp_path / name, times, **options)
    info, head = probe(path), header(path)
    assert (info.num_frames, info.width, info.height, info.rotation) == (len(times), W, H, 0)
    assert info.times[0] == 0
    np.testing.assert_allclose(info.times, (np.array(times) - times[0]) / 1000, atol=1.1e-3)
    assert (times[-1] - times[0]) / 1000 < info.duration < (times[-1] - times[0]) / 1000 + 0.15
    wanted = [0, 1, 11, 12, 13, 39, 5, 5, 0]
    frames = read_frames(path, wanted)
    assert (frames.dtype, frames.shape) == (np.uint8, (len(wanted), H, W, 3))
    assert [number(frame) for frame in frames] == wanted
    assert (head.width, head.height) == (W, H)
    assert abs(head.num_frames - info.num_frames) <= (3 + 75 * (name.startswith("late")) + 8 * ("vfr" in name))
    assert head.duration == pytest.approx(info.duration, abs=3.2 if name.startswith("late") else 0.2)


def box(data, kind):
    """Offset of an mp4 box's content."""
    return data.index(kind) + 4


@pytest.mark.parametrize(("matrix", "turn"), [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)])
def test_rotation(matrix, turn, tmp_path):
    """The container's matrix sends (x, y) to (a x + c y, b x + d y); y points down: (0, 1, -1, 0) turns clockwise."""
    frames = numbered(12)
    path = tmp_path / "turned.mp4"
    write_mp4(path, frames, 25.0)
    data = bytearray(path.read_bytes())
    at = box(data, b"tkhd") + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    info = probe(path)
    assert (info.width, info.height) == ((W, H) if turn == 2 else (H, W))
    upright = np.rot90(frames[[7, 2]], turn, axes=(1, 2))
    found, every = read_frames(path, [7, 2]), list(iterate_frames(path))
    assert (found.shape, len(every)) == (upright.shape, 12)
    assert np.abs(found.astype(int) - upright).mean() < 4
    assert np.array_equal(np.stack([every[7], every[2]]), found)
    assert found[0].flags.c_contiguous
    assert every[0].flags.c_contiguous


def test_edit_list_hides_frames(tmp_path):
    path = tmp_path / "cut.mp4"
    write_mp4(path, numbered(40), 25.0)
    whole = probe(path)
    data = bytearray(path.read_bytes())
    at = box(data, b"elst") + 8
    duration, start = struct.unpack(">Ii", data[at : at + 8])
    (scale,) = struct.unpack_from(">I", data, box(data, b"mdhd") + 12)
    data[at : at + 8] = struct.pack(">Ii", duration, start + scale * 15 // 25)
    path.write_bytes(data)
    info = probe(path)
    assert (whole.num_frames, info.num_frames) == (40, 25.0)
    assert info.times[:2] == pytest.approx((0, 0.04))
    assert [number(frame) for frame in read_frames(path, [0, 24])] == [15, 39]


def test_write_read_round_trip_and_bytes(tmp_path):
    ramp = np.linspace(20, 230, 64).astype(np.uint8)
    frames = np.stack([np.repeat(np.roll(ramp, 3 * i)[None, :, None], 64, 0).repeat(3, 2) for i in range(9)])
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, frames, 8.0)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    info = probe(tmp_path / "a.mp4")
    assert info.num_frames == 9
    assert info.duration == pytest.approx(9 / 8)
    assert np.abs(read_frames(tmp_path / "a.mp4", range(9)).astype(int) - frames).mean() < 3


def test_motion_profile(tmp_path):
    frames = np.full((12, 64, 64, 3), 60, np.uint8)
    for i in range(12):
        place = 8 + 6 * max(0, min(i, 8) - 4)  # moves between frames 4 and 8 only
        frames[i, 20:36, place : place + 16] = 220
    write_mp4(tmp_path / "m.mp4", frames, 8.0)
    profile = motion_profile(tmp_path / "m.mp4")
    assert profile.shape == (12,)
    assert profile[0] == 0
    exact = np.abs(np.diff(frames[..., 0].astype(float), axis=0)).mean((1, 2))
    np.testing.assert_allclose(profile[1:], exact, atol=1.5)
    assert set(np.argsort(profile)[-4:]) == {5, 6, 7, 8}


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 50], ids=["empty", "garbage"])
@pytest.mark.parametrize("function", [probe, header, motion_profile, lambda path: read_frames(path, [0])])
def test_undecodable_names_the_file(content, function, tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.mp4"):
        function(path)


def test_missing_truncated_and_audio_only(tmp_path):
    with pytest.raises(DataError, match="absent"):
        probe(tmp_path / "absent.mp4")
    write_mp4(tmp_path / "whole.mp4", numbered(40), 25.0)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.mp4"):
        probe(tmp_path / "cut.mp4")
    with pytest.raises(DataError, match="no video stream"):
        probe(with_sound(tmp_path / "sound.mkv", 1, pictures=0))


def cut_at_a_packet(path, kept):
    """The file without its packets from number `kept` on, nor a header or an index behind them."""
    with av.open(str(path)) as container:
        places = sorted(packet.pos for packet in container.demux(container.streams.video[0]) if packet.size)
    path.write_bytes(path.read_bytes()[: places[kept]])


CUT = {
    "faststart.mp4": {"mux": {"movflags": "faststart"}, "g": 6, "bf": 2},
    "clip.mkv": {"g": 6, "bf": 2},
    "clip.webm": {"codec": "libvpx-vp9"},
    "clip.avi": {"codec": "mpeg4", "tick": 40, "g": 6},
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_ends_early_is_refused(name, tmp_path):
    path = write(tmp_path / name, CONSTANT, **CUT[name])
    assert probe(path).num_frames == 40
    cut_at_a_packet(path, 20)
    with pytest.raises(DataError, match=r"the file ends early: \d+ of about (3[89]|40) frames decode") as caught:
        probe(path)
    assert caught.value.source == str(path)


def with_sound(path, seconds, pictures=40):
    """Frames at 25 fps and `seconds` of sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"}) if pictures else None
        sound = container.add_stream("pcm_s16le", rate=8000)
        if stream:
            stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
            for picture in numbered(pictures):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        for start in range(0, int(seconds * 8000), 800):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
            silence.rate, silence.pts = 8000, start
            container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("name", ["long.mkv", "long.mov", "long.avi"])
def test_longer_sound_is_no_cut(name, tmp_path):
    assert probe(with_sound(tmp_path / name, 6)).num_frames == 40


@pytest.mark.parametrize(
    ("name", "times", "options"),
    [
        ("stays.mkv", [*VARIABLE[:-1], VARIABLE[-1] + 200], {}),  # the last frame comes late
        ("live.mkv", CONSTANT, {"mux": {"live": "1"}}),  # a recorder's: no duration declared
        ("pieces.mp4", CONSTANT, {"mux": {"movflags": "frag_keyframe+empty_moov"}, "g": 6}),
        ("one.mkv", [0], {}),
    ],
)
def test_good_files_of_odd_length_are_taken(name, times, options, tmp_path):
    assert probe(write(tmp_path / name, times, **options)).num_frames == len(times)


def test_no_frame(tmp_path):
    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        container.start_encoding()
    for function in (probe, header):
        with pytest.raises(DataError, match=r"none\.mp4"):
            function(tmp_path / "none.mp4")


READ_ALL = """
import sys
from components.core.errors import DataError
from components.media import video

reads = [lambda path: video.read_frames(path, [0]), lambda path: list(video.iterate_frames(path))]
for read in (video.probe, video.header, video.motion_profile, *reads):
    try:
        read(sys.argv[1])
    except DataError as error:
        print(error.source, error.problem)
"""


@pytest.mark.parametrize(
    ("name", "options", "known"),
    [("strange.avi", {"codec": "mpeg4", "tick": 40}, b"FMP4"), ("strange.mp4", {}, b"avc1")],
)
def test_no_decoder(name, options, known, tmp_path):
    """A codec that nobody knows, in a process of its own: one that decodes it all the same may die (code -11)."""
    path = write(tmp_path / name, CONSTANT, **options)
    path.write_bytes(path.read_bytes().replace(known, b"ZZZZ"))
    refused = f"{path} the video does not decode: no decoder for its codec"
    assert python("-c", READ_ALL, path).stdout.splitlines() == [refused] * 5


def test_bad_requests(tmp_path):
    path = tmp_path / "v.mp4"
    write_mp4(path, numbered(9), 8.0)
    with pytest.raises(DataError, match="frame 9"):
        read_frames(path, [0, 9])
    for indices in ([], [-1]):
        with pytest.raises(ParameterError):
            read_frames(path, indices)
    for frames, fps in ((numbered(2)[:, :-1], 8.0), (numbered(0), 8.0), (numbered(2), 0.0)):
        with pytest.raises(ParameterError):
            write_mp4(tmp_path / "w.mp4", frames, fps)
