"""training_set: the shards' token maps joined into one artifact, for trainings that run side by side.

KFP hands a loop no collected list.
"""

from __future__ import annotations

from components.core.artifacts import VlmLine, VlmMaps
from components.runtime.context import Context
from components.runtime.declaration import Step
from components.runtime.parameters import SharedParams, StepParams


def run(context: Context[StepParams, SharedParams]) -> None:
    """Join the shards."""
    parts = context.shards("shards", VlmMaps)
    lines = context.lines(VlmLine, (line for part in parts for line in part.lines))
    context.publish("maps", context.manifest(VlmMaps, shard="0/1", lines=lines))
    context.metrics(samples=len(lines), videos=lines.videos)


STEP = Step(
    name="training_set",
    version="1",
    title="Training set",
    unit="sample",
    device="cpu",
    params=StepParams,
    run=run,
    inputs={"shards": [VlmMaps]},
    outputs={"maps": VlmMaps},
    pages={"metrics": "Metrics"},
)
