"""Pixels and times of every generated clip against the `ffmpeg` program, a build of its own."""

import re
import subprocess

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from components.media.video import probe, read_frames
from tests.media.made import VARIANTS, encode, moving
from tests.media.test_display import EIGHT, with_matrix

ROUNDING = 2  # levels: conversions to RGB are rounded otherwise on other processors


def both(path):
    """Return a clip's frames as they are read here and as the program shows them, which turns and mirrors by itself.

    Times are compared here: the program prints six digits behind the point.
    """
    info = probe(path)
    shown = f"scale={info.width}:{info.height}:flags=bicubic,showinfo"  # square pixels, as the clip is shown
    command = [get_ffmpeg_exe(), "-i", path, "-map", "0:V:0", "-vf", shown, "-fps_mode", "passthrough"]
    done = subprocess.run([*command, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"], capture_output=True, check=True)
    times = np.array([float(time) for time in re.findall(rb"pts_time:([\d.]+)", done.stderr)])
    assert np.allclose(info.times, times - times[0], rtol=0, atol=2e-6)
    theirs = np.frombuffer(done.stdout, np.uint8).reshape(-1, info.height, info.width, 3)
    own = read_frames(path, range(info.num_frames), info)
    assert own.shape == theirs.shape
    return own.astype(int), theirs.astype(int)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_codec_and_container(name, tmp_path):
    own, theirs = both(encode(tmp_path / name, moving(40), **VARIANTS[name]))
    assert np.abs(own - theirs).max() <= ROUNDING


@pytest.mark.parametrize("matrix", EIGHT)
def test_turns_and_mirrors(matrix, tmp_path):
    own, theirs = both(with_matrix(tmp_path / "turned.mp4", moving(3), matrix))
    assert np.abs(own - theirs).max() <= ROUNDING


@pytest.mark.parametrize("aspect", ["2/1", "1/2", "16/15"])
def test_pixels_that_are_not_square(aspect, tmp_path):
    """Brightness; the two builds scale colour, which has a quarter of the pixels, from places half a pixel apart."""
    own, theirs = both(encode(tmp_path / "wide.mkv", moving(4), aspect=aspect))
    assert np.abs((own - theirs) @ [0.299, 0.587, 0.114]).mean() < 1
