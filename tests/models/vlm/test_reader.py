"""What is read without weights: layouts from a manifest's sizes and times against those of the decoded frames."""

import math
import shutil
import struct
from dataclasses import fields
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from components.core.errors import DataError
from components.core.records import Ref, Video
from components.media.video import probe, read_frames, write_mp4
from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm.example import Layout
from components.models.vlm.model import load_vlm
from components.models.vlm.reader import open_reader
from tests.models.vlm.cases import NAMES, TALK

CLIPS = {  # frames, frames per second, height, width
    "odd": (9, 2, 101, 67),
    "one frame": (1, 25, 57, 91),
    "beyond the most frames": (1600, 2, 30, 45),
    "turned": (12, 4, 64, 96),
}


def written(path, count, rate, height, width):
    """A lossless file of noise; odd sides need a codec without halved colours."""
    frames = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(rate))
        stream.height, stream.width, stream.pix_fmt = height, width, "bgr0"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def turned(path, count, rate, height, width):
    """A file whose header asks for a quarter turn."""
    write_mp4(path, np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8), rate)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def manifest(path):
    """The clip as dataset_import writes it."""
    info = probe(path)
    sizes = {name: getattr(info, name) for name in ("width", "height", "rotation", "duration")}
    return Video(file=Ref(path="videos/x", sha256="0" * 64, bytes=1, task="t"), times=list(info.times), **sizes)


@pytest.fixture(params=CLIPS)
def clip(request, tmp_path):
    """A file and its manifest's record."""
    path = (turned if request.param == "turned" else written)(tmp_path / "clip.mkv", *CLIPS[request.param])
    found = manifest(path)
    height, width = CLIPS[request.param][2:]
    assert (found.width, found.height) == ((height, width) if request.param == "turned" else (width, height))
    return path, found


@pytest.mark.parametrize("name", NAMES)
def test_sizes_alone_give_the_layout_of_decoded_frames(name, clip):
    path, video = clip
    reader, viewing = open_reader(ensure_tiny(name)), Viewing(max_pixels=84 * 84)
    made, seen = reader.lay_out(TALK, video, viewing)
    frames, times = read_frames(path, seen), [video.times[k] for k in seen]
    decoded = reader.prepare(TALK, frames, times, video.duration, viewing)
    for field in fields(Layout):
        one, other = getattr(made, field.name), getattr(decoded, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, field.name
    if name == NAMES[0]:  # the shape that the model is told, and as many patches
        (grid,) = decoded.pixels["video_grid_thw"].tolist()
        assert len(decoded.pixels["pixel_values_videos"]) == math.prod(grid)
        shape = (grid[0], grid[1] // 2, grid[2] // 2)
    else:
        shape = (len(decoded.pixels["pixel_values"]), 4, 4)
    assert made.grid.shape == shape
    assert len(made.video_columns) == math.prod(shape)
    whole, indices = reader.read(TALK, video, path, viewing)
    assert indices == seen
    assert whole.pixels.keys() == decoded.pixels.keys()
    assert all(torch.equal(value, decoded.pixels[key]) for key, value in whole.pixels.items())


def test_frames_of_another_size_than_the_manifests_are_refused(tmp_path):
    path = written(tmp_path / "clip.mkv", 4, 2, 40, 60)
    video = manifest(path).model_copy(update={"height": 400})
    with pytest.raises(DataError, match="60 × 40 pixels, 60 × 400 in the manifest"):
        open_reader(ensure_tiny(NAMES[0])).read(TALK, video, path, Viewing())


@pytest.mark.parametrize("name", NAMES)
def test_no_weights_are_opened(name, tmp_path):
    folder = shutil.copytree(ensure_tiny(name), tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    reader, whole = open_reader(folder), load_vlm(ensure_tiny(name), torch.float32, "cpu")
    assert (reader.inputs, reader.max_tokens) == (whole.inputs, 8192)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_vlm(folder, torch.float32, "cpu")
