"""Still pictures: pixels and orientation as Pillow has them, what is damaged, animated or too deep."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from components.core.errors import DataError, ParameterError
from components.media.video import header, probe, read_frames
from tests.media.made import moving

PICTURE = moving(1)[0]  # 96 × 160, sharp colours
KINDS = {"jpg": {"quality": 90}, "png": {}, "webp": {"lossless": True}, "bmp": {}}
ORIENTATION = 0x0112


def save(path, mode="RGB", **options):
    """The picture as a file whose name says nothing of its kind, as SEED-Bench's."""
    Image.fromarray(PICTURE).convert(mode).save(path, **options)
    return path


def noticed(path):
    """Whether the import refuses a picture, or says that it is damaged."""
    try:
        return probe(path).corrupt == 1
    except DataError as error:
        return "the picture does not decode" in error.problem


def turned(path, orientation, kind):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return save(path, format=kind, exif=exif)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_one_frame_without_motion(kind, tmp_path):
    path = save(tmp_path / f"clip.{kind}", **KINDS[kind])
    path = path.rename(tmp_path / "1454426_2591111986")
    info = probe(path)
    assert (info.kind, info.width, info.height, info.times, info.duration) == ("image", 160, 96, (0.0,), 0.0)
    assert (info.rotation, info.mirrored, info.corrupt) == (0, False, 0)
    found = header(path)
    assert (found.width, found.height, found.num_frames, found.duration) == (160, 96, 1, 0.0)
    with Image.open(path) as image:
        assert np.array_equal(read_frames(path, [0, 0], info), np.stack([np.asarray(image.convert("RGB"))] * 2))
    if kind != "jpg":
        assert np.array_equal(read_frames(path, [0])[0], PICTURE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_that_of_exif(kind, orientation, tmp_path):
    path = turned(tmp_path / "clip", orientation, kind)
    info = probe(path)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_frames(path, [0], info)[0], upright)
    assert (info.height, info.width) == upright.shape[:2]
    assert (info.rotation == 0 and not info.mirrored) == (orientation == 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_modes_become_rgb_as_processors_do(mode, tmp_path):
    path = save(tmp_path / "clip.png", mode)
    with Image.open(path) as image:
        assert np.array_equal(read_frames(path, [0])[0], np.asarray(image.convert("RGB")))
    assert not probe(path).corrupt


def test_cmyk_jpeg(tmp_path):
    path = save(tmp_path / "clip.jpg", "CMYK")
    with Image.open(path) as image:
        assert np.array_equal(read_frames(path, [0], probe(path))[0], np.asarray(image.convert("RGB")))
    assert not probe(path).corrupt


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_clean_pictures_are_clean(progressive, subsampling, tmp_path):
    for quality in (20, 75, 95):
        path = save(tmp_path / "clip.jpg", quality=quality, progressive=progressive, subsampling=subsampling)
        assert not probe(path).corrupt


ABOUT = [b"Exif\0\0II*\0 nothing", b"Exif\0\0\xff\xd8\xff", b"http://ns.adobe.com/xap/1.0/\0<x", b""]


@pytest.mark.parametrize("about", ABOUT)
@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xFE])
def test_what_a_jpeg_says_about_itself_is_no_damage(marker, about, tmp_path):
    """Pictures of the web carry EXIF, profiles and comments of every quality."""
    path = save(tmp_path / "clip.jpg")
    data, shown = path.read_bytes(), read_frames(path, [0])
    segment = bytes([0xFF, marker]) + (len(about) + 2).to_bytes(2, "big") + about
    path.write_bytes(data[:2] + segment + data[2:] + b"more")
    assert not probe(path).corrupt
    assert np.array_equal(read_frames(path, [0]), shown)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_picture_is_refused(kind, tmp_path):
    path = save(tmp_path / f"clip.{kind}", **KINDS[kind])
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match="the picture does not decode"):
            probe(path)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_twenty_changed_bytes_are_noticed(kind, seed, tmp_path):
    path = save(tmp_path / f"clip.{kind}", **KINDS[kind])
    rng, data = np.random.default_rng(seed), bytearray(path.read_bytes())
    start = data.index(b"\xff\xda") + 20 if kind == "jpg" else 60  # where the pixels are
    for place in rng.integers(start, len(data) - 2, 20):
        data[place] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    assert noticed(path)


def test_check_sums_of_a_png_are_checked(tmp_path):
    """Pillow does not look at them when it reads pixels."""
    path = save(tmp_path / "clip.png")
    data = bytearray(path.read_bytes())
    data[-14] ^= 1
    path.write_bytes(data)
    assert np.array_equal(read_frames(path, [0])[0], PICTURE)
    with pytest.raises(DataError, match="the picture does not decode"):
        probe(path)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animated_pictures_are_refused(kind, tmp_path):
    first, *others = map(Image.fromarray, moving(3))
    first.save(tmp_path / "clip", format=kind, save_all=True, append_images=others)
    for function in (probe, header):
        with pytest.raises(DataError, match="an animated picture of 3 frames") as caught:
            function(tmp_path / "clip")
        assert "video" in caught.value.remedy


def test_a_second_view_in_a_jpeg_is_left_alone(tmp_path):
    """Phones write a preview or a depth map behind the picture."""
    first, second = map(Image.fromarray, moving(2))
    first.save(tmp_path / "clip.jpg", format="MPO", save_all=True, append_images=[second])
    assert probe(tmp_path / "clip.jpg").kind == "image"
    with Image.open(tmp_path / "clip.jpg") as image:
        assert np.array_equal(read_frames(tmp_path / "clip.jpg", [0])[0], np.asarray(image))


def test_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.arange(96 * 160, dtype=np.uint16).reshape(96, 160)).save(tmp_path / "clip.png")
    with pytest.raises(DataError, match="a picture of mode 'I;16'"):
        probe(tmp_path / "clip.png")


def test_too_many_pixels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="a picture of too many pixels"):
        probe(save(tmp_path / "clip.png"))


def test_frames_that_a_picture_does_not_have(tmp_path):
    path = save(tmp_path / "clip.png")
    with pytest.raises(DataError, match="frame 3 was asked for, a picture has 1"):
        read_frames(path, [0, 3])
    with pytest.raises(ParameterError, match="frame indices"):
        read_frames(path, [])
