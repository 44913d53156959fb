"""Small self-contained HTML pages for the KFP UI: a title and a few pictures, well below the 1 MB that it fetches."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:16px;max-width:1000px}img{max-width:100%;image-rendering:pixelated}figure{margin:0 0 20px}"
)


def picture_page(title: str, pictures: Sequence[tuple[str, bytes]]) -> str:
    """A page of captioned PNGs; without pictures it says that none were asked for."""
    figures = []
    for caption, png in pictures:
        data = base64.b64encode(png).decode()
        figures.append(f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}</figcaption></figure>')
    body = "".join(figures) or "<p>No pictured samples in this shard.</p>"
    return f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style><h3>{html.escape(title)}</h3>{body}"
