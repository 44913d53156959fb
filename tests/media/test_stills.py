"""Still frames in one file: bytes as they are, pixels as each decodes alone, equal bytes for equal frames."""

import av
import numpy as np
import pytest
from PIL import Image

from components.core.errors import DataError
from components.media.stills import pack_stills
from components.media.video import probe, read_frames
from tests.media.made import moving


def stills(folder, kind, count=8, **options):
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.{kind}" for number in range(1, count + 1)]
    for path, picture in zip(paths, moving(count), strict=True):
        Image.fromarray(picture).save(path, **options)
    return paths


def alone(path):
    """A picture as libav decodes it by itself."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_every_frame_is_there_as_it_is(kind, tmp_path):
    paths, packed = stills(tmp_path / "frames", kind), tmp_path / "packed.mov"
    pack_stills(paths, packed)
    info = probe(packed)
    assert (info.kind, info.times, info.duration) == ("video", tuple(map(float, range(8))), 8.0)
    assert (info.width, info.height, info.corrupt) == (160, 96, 0)
    with av.open(str(packed)) as container:
        assert [bytes(packet) for packet in container.demux(video=0) if packet.size] == [p.read_bytes() for p in paths]
    assert np.array_equal(read_frames(packed, range(8), info), np.stack([alone(path) for path in paths]))
    assert np.array_equal(read_frames(packed, [6, 2], info), np.stack([alone(paths[6]), alone(paths[2])]))
    if kind == "png":
        assert np.array_equal(read_frames(packed, range(8)), moving(8))


def test_equal_frames_give_equal_bytes(tmp_path):
    paths = stills(tmp_path / "frames", "png")
    for name in ("one", "two"):
        pack_stills(paths, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert b"Lavf" not in (tmp_path / "one").read_bytes()  # whatever the version of libav
    pack_stills(paths[::-1], tmp_path / "other")
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


def test_frames_that_make_no_video(tmp_path):
    paths = stills(tmp_path / "frames", "png", 3)
    mixed = [*paths[:2], *stills(tmp_path / "jpg", "jpg", 1)]
    with pytest.raises(DataError, match="frames that are JPEG, PNG"):
        pack_stills(mixed, tmp_path / "packed")
    with pytest.raises(DataError, match="frames that are WEBP"):
        pack_stills(stills(tmp_path / "webp", "webp"), tmp_path / "packed")
    paths[1].write_text("404: Not Found")
    with pytest.raises(DataError, match="frames that are PNG, no picture"):
        pack_stills(paths, tmp_path / "packed")


def test_damaged_frames_and_frames_of_two_sizes_are_noticed_by_the_import(tmp_path):
    paths, packed = stills(tmp_path / "frames", "png"), tmp_path / "packed"
    Image.fromarray(moving(1, height=48)[0]).save(paths[3])
    pack_stills(paths, packed)
    with pytest.raises(DataError, match="the frame size changes"):
        probe(packed)
    paths = stills(tmp_path / "frames", "jpg", quality=95)
    data = bytearray(paths[3].read_bytes())
    data[800:900] = bytes(100)
    paths[3].write_bytes(data)
    pack_stills(paths, packed)
    assert probe(packed).corrupt
