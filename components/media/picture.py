"""Still pictures: JPEG, PNG, WebP and BMP, recognized by their first bytes, upright by EXIF, RGB.

Pillow decodes them, as it does for the models' own processors. libav has to decode a JPEG as well: what it reports as
damage, Pillow conceals without a word.
Legend: H height and W width in pixels as shown.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from components.media.container import bad
from components.media.damage import watched

_KINDS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
_ANIMATED = ("PNG", "WEBP")  # a JPEG may hold a preview or a second view as well
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # of 8 bits at most
_ORIENTATION = 0x0112  # the EXIF tag
_PIXELS, _REMARKS = 0xDA, {*range(0xE1, 0xEE), 0xEF, 0xFE}  # markers; JFIF's and Adobe's segments tell of colours
_TURNS = {2: (0, True), 3: (180, False), 4: (180, True), 5: (270, True), 6: (270, False), 7: (90, True), 8: (90, False)}
_REMEDY = "replace the picture, or remove its rows from the annotations"
# what Pillow raises for a damaged file, by format
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


@dataclass(frozen=True)
class Picture:
    """What a still picture is: pixels as shown, degrees counter-clockwise and mirroring that EXIF asks for, damage."""

    width: int
    height: int
    rotation: int
    mirrored: bool
    damaged: bool


def picture_kind(path: Path | str) -> str | None:
    """Return which still picture a file is, by its first bytes; None for anything else."""
    with Path(path).open("rb") as file:
        head = file.read(16)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    return next((kind for start, kind in _KINDS.items() if head.startswith(start)), None)


def is_picture(path: Path | str) -> bool:
    """Return whether a file is a still picture by its first bytes; one that is not there is none."""
    return Path(path).is_file() and picture_kind(path) is not None


def read_picture(path: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """Return a picture as it is shown, RGB; what is transparent keeps its colour, as in the models' own processors.

    Raises:
        DataError: it does not decode, is animated, or has more than 8 bits per channel.
    """
    with _opened(path) as image:
        rotation, mirrored = _orientation(image)
        picture_HW3 = np.asarray(image.convert("RGB"))
    turned_HW3 = np.rot90(picture_HW3, rotation // 90)
    return np.ascontiguousarray(turned_HW3[:, ::-1] if mirrored else turned_HW3)


def inspect_picture(path: Path | str) -> Picture:
    """Decode a picture and say what it is.

    Raises:
        DataError: as `read_picture`.
    """
    kind = picture_kind(path)
    if kind == "PNG":  # check sums of all its pieces; an image that was verified cannot be read any more
        with _opened(path) as image:
            image.verify()
    with _opened(path) as image:
        rotation, mirrored = _orientation(image)
    height, width = read_picture(path).shape[:2]
    return Picture(width, height, rotation, mirrored, kind == "JPEG" and _is_damaged(path))


def picture_size(path: Path | str) -> tuple[int, int]:
    """Return width and height by the header, before it is turned; DataError: what the header alone says against it."""
    with _opened(path) as image:
        return image.width, image.height


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP", "BMP")) as image:
            frames = getattr(image, "n_frames", 1)
            if image.format in _ANIMATED and frames > 1:
                raise bad(path, f"an animated picture of {frames} frames", "convert it to a video")
            if image.mode not in _MODES:
                raise bad(path, f"a picture of mode {image.mode!r}", "convert it to 8 bits per channel")
            yield image
    except Image.DecompressionBombError as error:
        raise bad(path, f"a picture of too many pixels: {error}", "make it smaller") from error
    except _DAMAGE as error:
        raise bad(path, f"the picture does not decode: {error}", _REMEDY) from error


def _orientation(image: Image.Image) -> tuple[int, bool]:
    return _TURNS.get(image.getexif().get(_ORIENTATION, 1), (0, False))


def _is_damaged(path: Path | str) -> bool:
    """Return whether libav reports damage in a JPEG, or does not decode it at all."""
    data = io.BytesIO(_bare(Path(path).read_bytes()))
    try:
        with watched() as damage, av.open(data, format="jpeg_pipe") as container:
            for frame in container.decode(video=0):
                damage.add(frame)
            damage.end()
    except av.FFmpegError:
        return True
    return damage.frames > 0


def _bare(data: bytes) -> bytes:
    """Return a JPEG without what it says of itself: libav reports a wrong EXIF or colour profile as it does damage."""
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _PIXELS:
        behind = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        kept += [] if data[at + 1] in _REMARKS else [data[at:behind]]
        at = behind
    return b"".join([*kept, data[at:]])
