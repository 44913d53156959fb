"""The pages of all cases of a task as one page for the KFP UI, by its kind."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence

from components.core.records import Json, canonical_json
from components.runtime.declaration import Ui
from components.runtime.variants import Case

Pages = Sequence[tuple[Case, bytes]]
_PAGE = 1_000_000  # bytes of a page that the KFP UI shows


def _joined_metrics(_: str, pages: Pages) -> tuple[bytes, Json]:
    """Return the counts of units over all cases that were run; what else a step measures is each case's own."""
    found = [json.loads(data) for _, data in pages]
    units = sum(one.get("units", 0) for one in found)
    shared = sum(one.get("units", 0) * one.get("share_remembered", 0.0) for one in found)
    numbers = {"cases": len(found), "units": units, "failed": sum(one.get("failed", 0) for one in found)}
    numbers["share_remembered"] = round(shared / units, 4) if units else 0.0
    shown = {name: float(value) for name, value in numbers.items()}
    return canonical_json(shown), shown


def _joined_markdown(title: str, pages: Pages) -> tuple[bytes, Json]:
    parts = [f"# {title}: {len(pages)} different cases"]
    parts += [f"## `{case.called}`\n\n{data.decode()}" for case, data in pages]
    return "\n\n".join(parts).encode(), {}


def _joined_html(title: str, pages: Pages) -> tuple[bytes, Json]:
    """Return the pages one below the other as far as the KFP UI shows them; the others are named."""
    shown, left = list[str](), _PAGE
    for case, data in pages:
        frame = f'<iframe srcdoc="{html.escape(data.decode())}"></iframe>'
        name = html.escape(case.called)
        if (left := left - len(frame)) > 0:
            shown.append(f"<details><summary>{name}</summary>{frame}</details>")
        else:
            shown.append(f"<p>{name}: not shown here, as the page would be too large for this viewer</p>")
    style = (
        "<style>body{font:15px/1.5 sans-serif}iframe{width:100%;height:90vh;border:0}summary{cursor:pointer}</style>"
    )
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>{style}'
    return f"{head}<h1>{html.escape(title)}</h1>{''.join(shown)}</html>".encode(), {}


JOINED: dict[Ui, Callable[[str, Pages], tuple[bytes, Json]]] = {
    "Metrics": _joined_metrics,
    "Markdown": _joined_markdown,
    "HTML": _joined_html,
}
