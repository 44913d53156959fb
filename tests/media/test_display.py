"""Display matrices against their definition, pixel by pixel, and pixels that are not square."""

import itertools
import struct
from functools import partial

import numpy as np
import pytest

from components.core.errors import DataError
from components.media.grids import fit_frame, fit_frames, shown_part
from components.media.video import iterate_frames, probe, read_frames, write_mp4
from tests.media.made import encode, moving

H, W = 96, 160
EIGHT = [(a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)]
EIGHT += [(0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)]


def with_matrix(path, frames, matrix, across=0):
    """An mp4 whose header holds the matrix; `across` is a shift, which players ignore."""
    write_mp4(path, frames, 25.0)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (round(value * (1 << 16)) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, across << 16, 0, 1 << 30)
    path.write_bytes(data)
    return path


def moved(picture, matrix):
    """Each pixel at (a x + c y, b x + d y) from the picture's middle."""
    a, b, c, d = matrix
    rows, cols = picture.shape[:2]
    shown = np.zeros((cols, rows, 3) if a == 0 else picture.shape, picture.dtype)
    for y, x in np.ndindex(rows, cols):
        u, v = 2 * x - cols + 1, 2 * y - rows + 1  # twice the distance from the middle
        shown[(b * u + d * v + shown.shape[0] - 1) // 2, (a * u + c * v + shown.shape[1] - 1) // 2] = picture[y, x]
    return shown


@pytest.mark.parametrize("matrix", EIGHT)
def test_every_turn_and_mirror(matrix, tmp_path):
    frames = moving(2, H, W)
    plain = with_matrix(tmp_path / "plain.mp4", frames, (1, 0, 0, 1))
    path = with_matrix(tmp_path / "turned.mp4", frames, matrix, across=W)
    info, found = probe(path), read_frames(path, [0, 1])
    assert np.array_equal(found, [moved(picture, matrix) for picture in read_frames(plain, [0, 1])])
    assert (info.height, info.width) == found.shape[1:3]
    assert np.array_equal(found, list(iterate_frames(path)))


def test_the_record_of_a_turn_gives_it_back(tmp_path):
    frames = moving(1, H, W)
    plain = read_frames(with_matrix(tmp_path / "plain.mp4", frames, (1, 0, 0, 1)), [0])[0]
    for matrix in EIGHT:
        info = probe(with_matrix(tmp_path / "turned.mp4", frames, matrix))
        turned = np.rot90(plain, info.rotation // 90)
        assert np.array_equal(turned[:, ::-1] if info.mirrored else turned, moved(plain, matrix))


@pytest.mark.parametrize("matrix", [(0.7, 0.7, -0.7, 0.7), (0, 0, 0, 0), (1, 0, 0.5, 1)])
@pytest.mark.parametrize("function", [probe, lambda path: read_frames(path, [0])])
def test_other_matrices_are_refused_by_name(matrix, function, tmp_path):
    path = with_matrix(tmp_path / "slanted.mp4", moving(2, H, W), matrix)
    with pytest.raises(DataError, match=r"display matrix \S+ \S+ \S+ \S+, no turn by quarters"):
        function(path)


@pytest.mark.parametrize(("aspect", "width"), [("2/1", 320), ("1/2", 80), ("16/15", 171), ("1/1", 160)])
def test_pixels_that_are_not_square(aspect, width, tmp_path):
    frames = moving(4, H, W)
    plain = read_frames(encode(tmp_path / "plain.mkv", frames), range(4)).astype(int)
    path = encode(tmp_path / "wide.mkv", frames, aspect=aspect)
    info, found = probe(path), read_frames(path, range(4))
    assert (info.width, info.height) == (width, H)
    assert found.shape == (4, H, width, 3)
    columns = ((np.arange(width) + 0.5) * W / width).astype(int)  # column k shows what lies at its middle
    assert np.abs(found - plain[:, :, columns]).mean() < 16


def test_odd_pixels_are_refused_by_name(tmp_path):
    path = encode(tmp_path / "thin.mkv", moving(2, H, W), aspect="1/40")
    with pytest.raises(DataError, match="sample aspect ratio 1:40"):
        probe(path)


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_the_fit_is_that_of_the_shown_picture(fit, tmp_path):
    path = encode(tmp_path / "wide.mkv", moving(3, H, W), aspect="2/1")
    info = probe(path)
    fitted = read_frames(path, [0, 2], info, partial(fit_frame, height=48, width=48, fit=fit))
    whole, box = fit_frames(read_frames(path, [0, 2]), 48, 48, fit)
    assert np.array_equal(fitted, whole.numpy())
    assert box == shown_part(info.height, info.width, 48, 48, fit)
    assert box == ((0, 1, 112 / 320, 208 / 320) if fit == "crop" else (0, 1, 0, 1))
