"""Step 3 · head_selection (MHS): which heads follow motion, from the stored statistics of all samples of all shards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from components.core.artifacts import AttentionMaps, HeadLine, HeadSelection
from components.core.errors import DataError
from components.core.units import counted
from components.head_selection.settings import Params
from components.pages.heads import head_figure
from components.pages.page import Section, preview
from components.runtime.context import Context
from components.runtime.declaration import Step
from components.runtime.parameters import HeadRatio, SharedParams

_ABOUT = (
    "How much of a head's attention stays on one place through time (DFC), for how many frames on end (TCS) and in "
    "which share of frame pairs (DSR); standardized, mean over the samples. Heads left of the line are kept."
)


class Shared(SharedParams):
    """The shared parameters that the head selection reads."""

    head_ratio: HeadRatio


def run(context: Context[Params, Shared]) -> None:
    """Choose heads for every sample."""
    from components.head_selection.scores import HeadStatistics, choose_all, head_table, saturation
    from components.store.tensors import unpack

    parts = context.shards("maps", AttentionMaps)
    lines = sorted((line for part in parts for line in part.lines), key=lambda line: line.sample.id)
    if not lines:
        remedy = "see what was left out and why in the steps' logs"
        raise DataError("no sample was captured", source=context.task, remedy=remedy)
    with ThreadPoolExecutor(context.params.readers) as pool:
        data = list(pool.map(lambda line: context.store.read(line.statistics), lines))
    read = (HeadStatistics.from_tensors(unpack(item), line.sample.id) for item, line in zip(data, lines, strict=True))
    choices = choose_all(list(read), head_ratio=context.shared.head_ratio, **context.params.result())
    chosen = [HeadLine(**dict(line), heads=choice.heads) for line, choice in zip(lines, choices, strict=True)]
    rows, full = head_table(choices), saturation(choices)
    selection = context.manifest(HeadSelection, lines=chosen, heads=rows, saturation=full)
    context.publish("heads", selection)
    lead = f"{len(rows)} heads scored on {counted(len(lines), 'sample')}"
    figure = Section("heads", "Motion-sensitive heads", "", head_figure(selection))
    context.page("figure", preview("3 · head selection", lead, _ABOUT, [figure]))
    context.metrics(samples=len(lines), heads=len(rows), saturated_tcs=full["tcs"], saturated_dsr=full["dsr"])


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
