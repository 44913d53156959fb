"""prior_set: the shards' priors joined into one data set of no particular VLM, with a card; opened by its digest."""

from __future__ import annotations

from components.core.artifacts import MotionPrior, PriorSet
from components.core.errors import DataError
from components.prior_set.page import card
from components.runtime.context import Context
from components.runtime.declaration import Form, Step
from components.runtime.parameters import PriorDigest, SharedParams, StepParams


class Opened(SharedParams):
    """A published set."""

    prior_digest: PriorDigest


def run(context: Context[StepParams, SharedParams]) -> None:
    """Join the shards, or open a published set by digest."""
    shared = context.shared
    if isinstance(shared, Opened):
        joined = context.store.manifest(shared.prior_digest, PriorSet)
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
