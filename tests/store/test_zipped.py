"""Members of zip files: where they count as lying, what is read of an archive, which archives are refused."""

import itertools
import os
import shutil
import struct
import zipfile

import pytest

from components.core.errors import DataError
from components.store.address import open_backend
from components.store.zipped import extract, packed_files
from tests.s3_server import s3_server

CONTENT = {"data/a.mp4": os.urandom(300_000), "data/long/b.mp4": bytes(200_000), "empty.txt": b""}


def archive(path, content=CONTENT, compression=zipfile.ZIP_DEFLATED):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


def split(path, size, suffixes):
    """The archive in parts, as `split` leaves it."""
    data = path.read_bytes()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    for piece, suffix in zip(pieces, suffixes, strict=False):
        path.with_name(f"{path.name}.{suffix}").write_bytes(piece)
    path.unlink()
    return len(pieces)


def members(root):
    """The source and its members; the error of an archive that is not read is raised."""
    backend = open_backend(str(root))
    found, refused = packed_files(backend, list(backend.walk()))
    for error in refused:
        raise error
    return backend, found


def first_of(found):
    backend, files = found
    return backend, files["a.mp4"]


def read(backend, file, tmp_path):
    extract(backend, file, tmp_path / "out")
    return (tmp_path / "out").read_bytes()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_members_lie_where_unzip_would_put_them(compression, tmp_path):
    archive(tmp_path / "source/more/videos.zip", compression=compression)
    backend, found = members(tmp_path / "source")
    (tmp_path / "unpacked/more").mkdir(parents=True)
    shutil.unpack_archive(tmp_path / "source/more/videos.zip", tmp_path / "unpacked/more")
    unpacked = {path for path in (tmp_path / "unpacked").rglob("*") if path.is_file()}
    assert set(found) == {path.relative_to(tmp_path / "unpacked").as_posix() for path in unpacked}
    for path in unpacked:
        file = found[path.relative_to(tmp_path / "unpacked").as_posix()]
        assert file.size == path.stat().st_size
        assert read(backend, file, tmp_path) == path.read_bytes()


@pytest.mark.parametrize(
    "suffixes", [["001", "002", "003", "004", "005"], ["0", "1", "2", "3", "4"], ["aa", "ab", "ac", "ad", "ae"]]
)
def test_parts_are_one_archive(suffixes, tmp_path):
    count = split(archive(tmp_path / "source/v1_video.zip"), 70_001, suffixes)
    assert count == 5
    backend, found = members(tmp_path / "source")
    assert {name: read(backend, file, tmp_path) for name, file in found.items()} == CONTENT
    (tmp_path / f"source/v1_video.zip.{suffixes[2]}").unlink()
    with pytest.raises(DataError, match=r"part . of the archive is missing, the next one is v1_video"):
        members(tmp_path / "source")


def test_of_one_that_is_there_whole_and_in_parts_the_parts_are_left_alone(tmp_path):
    path = archive(tmp_path / "source/v.zip")
    whole = path.read_bytes()
    split(path, 200_000, ["001", "002"])
    path.write_bytes(whole)
    (tmp_path / "source/v.zip.txt").write_text("a note")
    backend, found = members(tmp_path / "source")
    assert {name: read(backend, file, tmp_path) for name, file in found.items()} == CONTENT


def test_an_archive_that_is_not_read_leaves_the_others(tmp_path, caplog):
    archive(tmp_path / "source/good.zip")
    (tmp_path / "source/bad.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    backend = open_backend(str(tmp_path / "source"))
    found, (error,) = packed_files(backend, list(backend.walk()))
    assert set(found) == set(CONTENT)
    assert error.source.endswith("/bad.zip")
    assert "bad.zip is not read: not a whole zip file" in caplog.text


def test_only_ranges_are_read_from_s3(tmp_path):
    content = CONTENT | {f"data/{k}.mp4": os.urandom(400_000) for k in range(20)}
    path = archive(tmp_path / "v.zip", content, zipfile.ZIP_STORED)
    with s3_server("source") as client:
        client.fput_object("source", "set/v.zip", str(path))
        backend = open_backend("minio://source/set")
        listed, fetched = list(backend.walk()), []
        inner = type(backend).read
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(backend), "read", lambda self, *args: fetched.append(args[2]) or inner(self, *args))
            found, _ = packed_files(backend, listed)
            assert read(backend, found["data/a.mp4"], tmp_path) == content["data/a.mp4"]
        assert sum(fetched) < 800_000  # of 8.5 MB


def test_a_copy_is_told_by_content_alone(tmp_path):
    """The key of an import must not follow from when an archive was written."""
    first = members(archive(tmp_path / "one/v.zip").parent)[1]
    second = members(archive(tmp_path / "two/v.zip", compression=zipfile.ZIP_STORED).parent)[1]
    told = [{name: (file.size, file.stamp) for name, file in found.items()} for found in (first, second)]
    assert told[0] == told[1]
    changed = members(archive(tmp_path / "three/v.zip", CONTENT | {"data/a.mp4": os.urandom(300_000)}).parent)[1]
    assert changed["data/a.mp4"].stamp != first["data/a.mp4"].stamp


def test_two_members_of_one_name(tmp_path):
    archive(tmp_path / "source/one.zip", {"a.mp4": b"one", "same.mp4": b"same"})
    archive(tmp_path / "source/two.zip", {"a.mp4": b"two", "same.mp4": b"same"})
    backend, found = members(tmp_path / "source")
    assert read(backend, found["same.mp4"], tmp_path) == b"same"
    with pytest.raises(DataError, match=r"two members of that name with other content, in one\.zip and two\.zip"):
        extract(backend, found["a.mp4"], tmp_path / "out")


def test_what_cannot_be_read_says_why(tmp_path):
    path = archive(tmp_path / "source/v.zip", {"a.mp4": b"x" * 10_000}, zipfile.ZIP_STORED)
    whole, stamps = path.read_bytes(), itertools.count()

    def refused(data, match):
        path.write_bytes(data)
        os.utime(path, ns=(1, next(stamps)))  # the directory is read again
        with pytest.raises(DataError, match=match):
            extract(*first_of(members(tmp_path / "source")), tmp_path / "out")

    directory = whole.index(b"PK\x01\x02")
    encrypted = bytearray(whole)
    encrypted[directory + 8] |= 1
    encrypted[6] |= 1
    refused(bytes(encrypted), "the member is encrypted")
    unknown = bytearray(whole)
    struct.pack_into("<H", unknown, directory + 10, 9)  # deflate64
    struct.pack_into("<H", unknown, 8, 9)
    refused(bytes(unknown), "the member does not unpack: That compression method is not supported")
    spoilt = bytearray(whole)
    spoilt[5000] ^= 1
    refused(bytes(spoilt), "the member does not unpack: Bad CRC-32")
    refused(whole[:5000], "not a whole zip file")
    refused(b"", "not a whole zip file")
    refused(b"version https://git-lfs.github.com/spec/v1", "not a whole zip file")


@pytest.mark.parametrize("name", ["../a.mp4", "/etc/a.mp4", "data/../../a.mp4", "data\\a.mp4"])
def test_a_member_that_leaves_its_folder(name, tmp_path):
    archive(tmp_path / "source/v.zip", {name: b"x"})
    with pytest.raises(DataError, match="is no path inside of its folder"):
        members(tmp_path / "source")


def test_an_archive_of_volumes_has_to_be_joined(tmp_path):
    """`zip -s`: the directory is in the last volume, the first members are in `.z01`."""
    archive(tmp_path / "source/v.zip")
    (tmp_path / "source/v.z01").write_bytes(b"PK\x07\x08")
    with pytest.raises(DataError, match="several volumes") as caught:
        members(tmp_path / "source")
    assert "zip -s 0" in caught.value.remedy
