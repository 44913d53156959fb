"""prior_set: the shards' priors joined into one data set of no particular VLM, with a card; opened by its digest.

Several published sets are opened as one: their samples together, and the table of heads as it is of all of them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from components.core.artifacts import MotionPrior, PriorLine, PriorSet
from components.core.errors import DataError
from components.core.records import HeadRow
from components.prior_set.merge import check_agreement, joined_left_out, joined_lines, joined_provenance
from components.prior_set.page import card
from components.runtime.context import Context
from components.runtime.declaration import Form, Step
from components.runtime.parameters import PriorDigest, SharedParams, StepParams, items_of

_READERS = 16  # statistics read at once


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
        lines = sorted((line for part in parts for line in part.lines), key=lambda line: line.sample.id)
        joined = context.manifest(PriorSet, lines=lines, heads=parts[0].heads, saturation=parts[0].saturation)
    if not joined.lines:
        remedy = "see what was left out and why in the steps' logs"
        raise DataError("the prior set is empty", source=context.task, remedy=remedy)
    context.publish("priors", joined)
    context.page("card", card(joined))
    context.metrics(samples=len(joined.lines), videos=len({line.video.id for line in joined.lines}))


def _merged(context: Context[StepParams, SharedParams], sets: list[PriorSet]) -> PriorSet:
    check_agreement(sets)
    context.provenance |= joined_provenance(sets)
    context.left_out.extend(joined_left_out(sets))
    lines = joined_lines(sets)
    heads, full = _head_table(context, lines)
    merged = [f"sha256:{one.digest}" for one in sets]
    return context.manifest(PriorSet, lines=lines, heads=heads, saturation=full, merged=merged)


def _head_table(
    context: Context[StepParams, SharedParams], lines: list[PriorLine]
) -> tuple[list[HeadRow], dict[str, float]]:
    """Return the table of heads and the saturation over the samples of all sets, as head_selection makes them."""
    from components.head_selection.scores import HeadStatistics, choose_all, head_table, saturation
    from components.store.tensors import unpack

    record = context.provenance["head_selection"]
    with ThreadPoolExecutor(_READERS) as pool:
        data = list(pool.map(lambda line: context.store.read(line.statistics), lines))
    read = [HeadStatistics.from_tensors(unpack(item), line.sample.id) for item, line in zip(data, lines, strict=True)]
    choices = choose_all(read, **record.params, **record.scalars)
    return head_table(choices), saturation(choices)


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
