"""prior_set: the shards' priors joined into one data set of no particular VLM, with a card; opened by its digest.

Several published sets are opened as one: their samples together, and the table of heads as it is of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from components.core.artifacts import SMALLEST, MotionPrior, PriorLine, PriorSet
from components.core.errors import DataError
from components.core.lines import Lines
from components.core.records import smallest_by_hash
from components.prior_set.merge import check_agreement, joined_lines, joined_provenance
from components.prior_set.page import card
from components.runtime.context import Context
from components.runtime.declaration import Form, Step
from components.runtime.parameters import PriorDigest, SharedParams, StepParams, items_of
from components.store.packed import read_files

if TYPE_CHECKING:
    from components.head_selection.scores import HeadTable


class Opened(SharedParams):
    """A published set, or several."""

    prior_digest: PriorDigest


def run(context: Context[StepParams, SharedParams]) -> None:
    """Join the shards, or open published sets by digest."""
    shared = context.shared
    if isinstance(shared, Opened):
        names = dict.fromkeys(map(str, items_of(shared.prior_digest, "prior_digest")))
        sets = [context.store.manifest(name, PriorSet) for name in names]
        joined = sets[0] if len(sets) == 1 else _merged(context, sets)
    else:
        parts = context.shards("shards", MotionPrior)
        lines, first = _written(context, (line for part in parts for line in part.lines))
        measured = {"heads": parts[0].heads, "saturation": parts[0].saturation}
        joined = context.manifest(PriorSet, lines=lines, first_by_hash=first, **measured)
    if not joined.lines:
        remedy = "see what was left out and why in the steps' logs"
        raise DataError("the prior set is empty", source=context.task, remedy=remedy)
    context.publish("priors", joined)
    context.page("card", card(joined))
    context.metrics(samples=len(joined.lines), videos=joined.lines.videos)


def _written(
    context: Context[StepParams, SharedParams], lines: Iterable[PriorLine]
) -> tuple[Lines[PriorLine], list[str]]:
    """Write the lines; return them, and the sample ids with the smallest hashes."""
    names: list[str] = []

    def noted() -> Iterator[PriorLine]:
        for line in lines:
            names.append(line.sample.id)
            yield line

    written = context.lines(PriorLine, noted())
    return written, smallest_by_hash(names, SMALLEST)


def _merged(context: Context[StepParams, SharedParams], sets: list[PriorSet]) -> PriorSet:
    check_agreement(sets)
    context.provenance |= joined_provenance(sets)
    for one in sets:
        context.note_left_out(one.left_out)
    lines, first = _written(context, joined_lines(sets))
    table = _head_table(context, lines)
    merged = [f"sha256:{one.digest}" for one in sets]
    measured = {"heads": table.rows(), "saturation": table.saturation()}
    return context.manifest(PriorSet, lines=lines, first_by_hash=first, merged=merged, **measured)


def _head_table(context: Context[StepParams, SharedParams], lines: Lines[PriorLine]) -> HeadTable:
    """Return the table of heads over the samples of all sets, as head_selection makes it."""
    from components.head_selection.scores import HeadStatistics, choose_all, head_table
    from components.store.tensors import unpack

    record = context.provenance["head_selection"]
    names, refs = zip(*((line.sample.id, line.statistics) for line in lines), strict=True)
    read = zip(names, read_files(context.store, None, refs), strict=True)
    # a list, as the scope `dataset` goes through it twice
    statistics = [HeadStatistics.from_tensors(unpack(data), name) for name, data in read]
    choices = choose_all(statistics, **record.params, **record.scalars)
    return head_table(choice.of(line.heads) for choice, line in zip(choices, lines, strict=True))


STEP = Step(
    name="prior_set",
    version="1",
    title="Prior set",
    unit="sample",
    device="cpu",
    params=StepParams,
    run=run,
    inputs={"shards": [MotionPrior]},
    outputs={"priors": PriorSet},
    pages={"card": "Markdown", "metrics": "Metrics"},
    forms={"collected": Form(SharedParams, ("shards",)), "opened": Form(Opened)},
)
