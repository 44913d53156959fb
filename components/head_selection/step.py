"""Step 3 · head_selection (MHS): which heads follow motion, from the stored statistics of all samples of all shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.core.artifacts import AttentionMaps, HeadLine, HeadSelection
from components.core.errors import DataError
from components.core.records import HeadRow
from components.core.units import counted
from components.head_selection.settings import Params, Selection, check_selection
from components.pages.figures import code, raw
from components.pages.heads import head_figure
from components.pages.page import Section, caption, preview
from components.runtime.context import Context
from components.runtime.declaration import Step
from components.runtime.parameters import HeadRatio, SharedParams
from components.store.entries import Store
from components.store.packed import read_files

if TYPE_CHECKING:
    from components.head_selection.scores import HeadStatistics

log = logging.getLogger(__name__)
_ABOUT = (
    "How much of a head's attention stays on one place through time (DFC), for how many frames on end (TCS) and in "
    "which share of frame pairs (DSR); standardized, mean over the samples. Heads left of the line are kept."
)


class Shared(SharedParams):
    """The shared parameters that the head selection reads."""

    head_ratio: HeadRatio


def run(context: Context[Params, Shared]) -> None:
    """Choose heads for every sample."""
    from components.head_selection.scores import HeadTable, choose_all

    parts = context.shards("maps", AttentionMaps)
    if not any(part.lines for part in parts):
        remedy = "see what was left out and why in the steps' logs"
        raise DataError("no sample was captured", source=context.task, remedy=remedy)
    _check_kept(context)
    options = {"head_ratio": context.shared.head_ratio, **context.params.result()}
    choices = choose_all(_Statistics(context.store, parts, context.params.readers), **options)
    table = HeadTable()

    def chosen() -> Iterator[HeadLine]:
        for line, choice in zip((line for part in parts for line in part.lines), choices, strict=True):
            made = choice if line.heads is None else choice.of(line.heads)
            table.add(made)
            yield HeadLine(**{**dict(line), "heads": made.named})

    lines = context.lines(HeadLine, chosen())
    rows, full = table.rows(), table.saturation()
    digest = context.publish("heads", context.manifest(HeadSelection, lines=lines, heads=rows, saturation=full))
    lead = f"{len(rows)} heads scored on {counted(len(lines), 'sample')}"
    log.info("head selection sha256:%s (params_token_selection.ensemble_with of another video model)", digest)
    context.page("figure", preview("3 · head selection", lead, _ABOUT, [_figure(rows, full, digest)]))
    context.metrics(samples=len(lines), heads=len(rows), saturated_tcs=full["tcs"], saturated_dsr=full["dsr"])


def _check_kept(context: Context[Params, Shared]) -> None:
    """Raise ParameterError where maps are means over heads that these parameters would not choose."""
    captured = context.provenance["attention_capture"].params
    if captured["keep"] == "selected":
        check_selection(Selection.model_validate(captured["selection"]), context.params, context.shared.head_ratio)


def _figure(rows: list[HeadRow], saturation: dict[str, float], digest: str) -> Section:
    named = caption(raw("This selection, for <code>ensemble_with</code>: {}.").format(code(f"sha256:{digest}")))
    return Section("heads", "Motion-sensitive heads", "", head_figure(rows, saturation) + named)


@dataclass(frozen=True)
class _Statistics:
    """The samples' statistics in the order of the shards' lines, read anew each time."""

    store: Store
    parts: Sequence[AttentionMaps]
    readers: int

    def __iter__(self) -> Iterator[HeadStatistics]:
        from components.head_selection.scores import HeadStatistics
        from components.store.tensors import unpack

        for part in self.parts:
            named = [(line.sample.id, line.statistics) for line in part.lines]
            read = read_files(self.store, part.statistics, [ref for _, ref in named], self.readers)
            for (sample, _), data in zip(named, read, strict=True):
                yield HeadStatistics.from_tensors(unpack(data), sample)


STEP = Step(
    name="head_selection",
    version="2",
    title="3 · Head selection (MHS)",
    unit="sample",
    device="cpu",
    params=Params,
    shared=Shared,
    run=run,
    inputs={"maps": [AttentionMaps]},
    outputs={"heads": HeadSelection},
    pages={"figure": "HTML", "metrics": "Metrics"},
)
