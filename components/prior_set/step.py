"""prior_set: the shards' priors joined into one data set that knows nothing of any VLM, with a card. Opened again by its digest."""

from __future__ import annotations

from components.core.artifacts import MotionPrior, PriorSet
from components.core.errors import DataError
from components.prior_set.page import card
from components.runtime.context import Context
from components.runtime.declaration import Form, Step
from components.runtime.parameters import StepParams
from components.runtime.shards import all_shards


class Params(StepParams):
    """No parameters of its own."""


def run(context: Context[Params]) -> None:
    """Join the shards, or open a published set by digest."""
    if context.has("shards"):
        parts = all_shards(context.collected("shards", MotionPrior), "prior_set")
        lines = sorted((line for part in parts for line in part.lines), key=lambda line: line.sample.id)
        joined = context.manifest(PriorSet, lines=lines, heads=parts[0].heads, saturation=parts[0].saturation)
    else:
        joined = context.store.manifest(context.scalars.prior_digest, PriorSet)
    if not joined.lines:
        raise DataError(
            "the prior set is empty", source=context.task, remedy="see what was left out and why in the steps' logs"
        )
    context.publish("priors", joined)
    context.page("card", card(joined))
    context.metrics(samples=len(joined.lines), videos=len({line.video.id for line in joined.lines}))


STEP = Step(
    name="prior_set",
    version="1",
    title="Prior set",
    unit="sample",
    device="cpu",
    params=Params,
    run=run,
    inputs={"shards": [MotionPrior]},
    outputs={"priors": PriorSet},
    pages={"card": "Markdown", "metrics": "Metrics"},
    forms={"collected": Form(inputs=("shards",)), "opened": Form(scalars=("prior_digest",))},
)
