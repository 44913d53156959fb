"""Files that are no video of their own, and the one stream of a file that is the video."""

import struct

import av
import numpy as np
import pytest
from av.stream import Disposition

from components.core.errors import DataError
from components.media.video import header, probe, read_frames
from tests.media.made import encode, moving

PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><title>Sign in</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PLAYLIST = b"ffconcat version 1.0\nfile other.mp4\n"


@pytest.mark.parametrize(
    ("content", "reason", "remedy"),
    [
        (b"", "an empty file", "download the file again"),
        (PAGE, "an HTML page", "download the file again"),
        (b'<?xml version="1.0"?>\n<html xmlns="x">', "an HTML page", "download the file again"),
        (POINTER, "a git-lfs pointer", "git lfs pull"),
        (PLAYLIST, "a playlist of other files", "put the videos that it names into the source"),
        (b"#EXTM3U\n#EXTINF:1,\nother.mp4\n", "a playlist of other files", "put the videos"),
        (b'<?xml version="1.0"?>\n<MPD><BaseURL>other.mp4', "a playlist of other files", "put the videos"),
        (b"404: Not Found", "a text, not a video: '404: Not Found'", "download the file again"),
        (bytes(range(256)) * 8, "the video does not decode", "replace the file"),
    ],
)
@pytest.mark.parametrize("function", [probe, header])
def test_what_is_no_video_says_what_it_is(content, reason, remedy, function, tmp_path):
    encode(tmp_path / "other.mp4", moving(9))
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        function(path)
    assert caught.value.problem.startswith(reason)
    assert remedy in caught.value.remedy
    assert caught.value.source == str(path)


def test_raw_streams_are_no_videos(tmp_path):
    path = encode(tmp_path / "raw.h264", moving(1))
    with pytest.raises(DataError, match=r"raw\.h264"):
        probe(path.rename(tmp_path / "raw.h264.mp4"))


def with_cover(path, films):
    """A file with cover art in front of its `films` frames."""
    with av.open(str(path), "w", format="mp4") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        stream = container.add_stream("libx264", rate=25) if films else None
        if stream:
            stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        still = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 200, np.uint8), format="rgb24")
        for packet in [*cover.encode(still), *cover.encode(None)]:
            container.mux(packet)
        for picture in moving(films):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if stream:
            container.mux(stream.encode(None))
    path.write_bytes(tags_first(path.read_bytes()))
    return path


def tags_first(data):
    """Move the tags of an mp4 (box `udta`) in front of its tracks: streams are numbered as they come."""
    start = data.index(b"moov") - 4
    tags = data.index(b"udta", start) - 4
    (size,) = struct.unpack_from(">I", data, tags)
    first = (data.find(b"trak", start) if b"trak" in data[start:] else tags + 4) - 4
    return data[:first] + data[tags : tags + size] + data[first:tags] + data[tags + size :]


def test_cover_art_is_not_the_video(tmp_path):
    path = with_cover(tmp_path / "film.mp4", 12)
    with av.open(str(path)) as container:
        assert container.streams.video[0].disposition & Disposition.attached_pic
    info = probe(path)
    assert (info.num_frames, info.width, info.height) == (12, 160, 96)
    assert read_frames(path, [3]).shape == (1, 96, 160, 3)
    with pytest.raises(DataError, match="no video stream, only cover art"):
        probe(with_cover(tmp_path / "song.mp4", 0))


def test_animated_avif_is_its_film_and_not_its_still(tmp_path):
    path = encode(tmp_path / "a.avif", moving(10), codec="libsvtav1", fmt="avif", preset=12)
    with av.open(str(path)) as container:
        assert [stream.frames for stream in container.streams.video] == [1, 10]
    assert (probe(path).num_frames, header(path).num_frames) == (10, 10)
    assert len(read_frames(path, [0, 9])) == 2


def test_an_unknown_encoding_of_metadata_is_no_reason(tmp_path):
    path = encode(tmp_path / "a.mkv", moving(5))
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\xff\xfe\xff\xfe"))
    assert probe(path).num_frames == 5
