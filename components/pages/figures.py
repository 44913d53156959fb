"""Pictures as HTML: maps and frames as small inlined images, and strips of them.

Maps are drawn one pixel per cell, unsmoothed, through one colour table (dark → bright, monotone in lightness, the same
in both themes). Everything returns HTML; text that comes from data passes through `escape`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from markupsafe import Markup, escape
from PIL import Image

from components.core.units import number

# anchors of the colour table, sRGB
_ANCHORS = np.array(list(bytes.fromhex("0d0c22 3a155c 7a2270 b63661 e25c42 f69334 fbcb62 fef9d0"))).reshape(-1, 3)
_PLACES = np.linspace(0, len(_ANCHORS) - 1, 256)
TABLE = np.stack([np.interp(_PLACES, range(len(_ANCHORS)), channel) for channel in _ANCHORS.T], -1)

NOTHING = Markup("")
_WIDE = 960  # pixels of the widest picture
_SMALL = 40_000  # bytes of a picture that stays as it is


def heat_image(map_HW: Float[np.ndarray, "H W"], top: float) -> Image.Image:
    """Return a map as a picture of one pixel per cell, 0 to `top`."""
    index = np.clip(np.nan_to_num(map_HW) / (top or 1) * 255, 0, 255).astype(np.uint8)
    picture = Image.fromarray(index)
    picture.putpalette(np.round(TABLE).astype(np.uint8).ravel().tolist())
    return picture


def heat(map_HW: Float[np.ndarray, "H W"], top: float) -> str:
    """Return a map as the address of a PNG of one pixel per cell, 0 to `top`."""
    return _encode(heat_image(map_HW, top), "PNG", optimize=True)


def photo(frame: UInt8[np.ndarray, "h w 3"], width: int = 200) -> str:
    """Return a frame as a JPEG of at most `width` pixels."""
    picture = Image.fromarray(frame)
    picture.thumbnail((width, 10 * width), Image.Resampling.LANCZOS)
    return _encode(picture, "JPEG", quality=82, optimize=True)


def stored_picture(png: bytes, name: str, caption: Markup) -> Markup:
    """Return a picture of an earlier step with its caption, as wide as the page; `name` replaces it as text."""
    picture: Image.Image = Image.open(io.BytesIO(png))
    if picture.width > _WIDE or len(png) > _SMALL:
        picture = picture.convert("RGBA")
        picture.thumbnail((_WIDE, 10 * _WIDE), Image.Resampling.LANCZOS)
        address = _encode(picture, "WEBP", quality=85)
    else:
        address = _address(png, "PNG")
    return raw(f'<figure class="stored"><img src="{address}" alt="{escape(name)}">{caption}</figure>')


def _encode(picture: Image.Image, form: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)  # type: ignore[arg-type]
    return _address(buffer.getvalue(), form)


def _address(data: bytes, form: str) -> str:
    return f"data:image/{form.lower()};base64,{base64.b64encode(data).decode()}"


def scale_bar(top: float, unit: str) -> Markup:
    """Return the colour scale of a row of maps, 0 to `top`, printed."""
    stops = ",".join(f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in TABLE[::51])
    return raw(
        '<span class="scale"><i>0</i><b style="background:linear-gradient(90deg,{})"></b><i>{}</i></span>'
        '<span class="unit">{}</span>'
    ).format(raw(stops), number(top), unit)


def raw(text: str) -> Markup:
    """Mark text as HTML; whatever came from data must be escaped in it already."""
    return Markup(text)  # noqa: S704 - the one place


def code(value: object) -> Markup:
    """Return a value in the code face."""
    return raw("<code>{}</code>").format(value)


@dataclass(frozen=True)
class Cell:
    """One picture of a strip: an image, its box in the video's frame (top, bottom, left, right), cells to outline.

    Without an image its label stands in its place.
    """

    image: str
    box: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)
    unseen: Bool[np.ndarray, "H W"] | None = None
    smooth: bool = False
    label: str = ""


def cell_svg(cell: Cell, width: int, height: int) -> Markup:
    """Return the picture in the video's own proportions; cells that the VLM did not see are outlined and veiled."""
    w, h = 160.0, 160.0 * height / width
    top, bottom, left, right = cell.box
    x, y, dx, dy = left * w, top * h, (right - left) * w, (bottom - top) * h
    style = "" if cell.smooth else ' style="image-rendering:pixelated"'
    outline = "" if cell.unseen is None else _outline(cell.unseen, x, y, dx, dy)
    image = (
        f'<rect width="{w:.6g}" height="{h:.6g}" class="void"/><image href="{cell.image}" x="{x:.6g}" y="{y:.6g}" '
        f'width="{dx:.6g}" height="{dy:.6g}" preserveAspectRatio="none"{style}/>{outline}'
        if cell.image
        else f'<rect width="{w:.6g}" height="{h:.6g}" class="blank"/>'
        f'<text x="{w / 2:.6g}" y="{h / 2 + 4:.6g}" text-anchor="middle">{escape(cell.label)}</text>'
    )
    return raw(f'<svg viewBox="0 0 {w:.6g} {h:.6g}" role="img" aria-label="{escape(cell.label)}">{image}</svg>')


def _outline(unseen_HW: Bool[np.ndarray, "H W"], x: float, y: float, dx: float, dy: float) -> str:
    """Return a veil over the unseen cells, and their border along cell edges."""
    if not unseen_HW.any():
        return ""
    rows, cols = unseen_HW.shape
    padded = np.pad(unseen_HW, 1)
    sx, sy = dx / cols, dy / rows
    edges, fill = [], []
    for r, c in zip(*np.nonzero(unseen_HW), strict=True):
        px, py = x + c * sx, y + r * sy
        fill.append(f"M{px:.4g} {py:.4g}h{sx:.4g}v{sy:.4g}h{-sx:.4g}z")
        for dr, dc, path in (
            (0, 1, f"M{px:.4g} {py:.4g}h{sx:.4g}"),
            (2, 1, f"M{px:.4g} {py + sy:.4g}h{sx:.4g}"),
            (1, 0, f"M{px:.4g} {py:.4g}v{sy:.4g}"),
            (1, 2, f"M{px + sx:.4g} {py:.4g}v{sy:.4g}"),
        ):
            if not padded[r + dr, c + dc]:
                edges.append(path)
    return f'<path d="{"".join(fill)}" class="unseen"/><path d="{"".join(edges)}" class="outline"/>'


@dataclass(frozen=True)
class StripRow:
    """One row of a strip: name, its pictures, and its colour scale where it has one."""

    name: str
    cells: Sequence[Cell]
    scale: Markup = NOTHING


def strip(rows: Sequence[StripRow], columns: Sequence[str], width: int, height: int, least: int = 1) -> Markup:
    """Return rows of pictures under common column heads (times), no larger than those of `least` columns."""
    head = "".join(f"<span>{escape(text)}</span>" for text in columns)
    body = "".join(
        f'<div class="label"><b>{escape(row.name)}</b>{row.scale}</div>'
        + "".join(cell_svg(cell, width, height) for cell in row.cells)
        for row in rows
    )
    wide = min(
        1.0, len(columns) / least, 3.2 * width / height / max(1, len(columns))
    )  # portrait clips must not fill the page
    return raw(f'<div class="strip" style="--columns:{len(columns)};--wide:{wide:.3g}"><span></span>{head}{body}</div>')
