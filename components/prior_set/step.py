"""prior_set: the shards' priors joined into one data set that knows nothing of any VLM, with a card. Opened again by its digest."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from components.core.artifacts import MotionPrior, PriorSet, Sharded
from components.core.errors import DataError
from components.core.step import Context, Form, Shard, Step, StepParams

S = TypeVar("S", bound=Sharded)


class Params(StepParams):
    """No parameters of its own."""


def all_shards(manifests: list[S], source: str) -> list[S]:
    """The shards in order, each there once.

    Raises:
        DataError: a shard is missing or there twice.
    """
    shards = [Shard.parse(item.shard) for item in manifests]
    counts = {shard.count for shard in shards}
    if len(counts) != 1 or sorted(shard.index for shard in shards) != list(range(next(iter(counts)))):
        raise DataError(f"shards {[item.shard for item in manifests]} are not k/n, each once", source=source, remedy="correct `shards`")
    return [item for _, item in sorted(zip(shards, manifests, strict=True), key=lambda pair: pair[0].index)]


def run(context: Context[Params]) -> None:
    """Join the shards, or open a published set by digest."""
    if context.has("shards"):
        parts = all_shards(context.collected("shards", MotionPrior), "prior_set")
        lines = sorted((line for part in parts for line in part.lines), key=lambda line: line.sample.id)
        joined = context.manifest(PriorSet, lines=lines, heads=parts[0].heads, saturation=parts[0].saturation)
    else:
        joined = context.store.manifest(context.scalars.prior_digest, PriorSet)
    if not joined.lines:
        raise DataError("the prior set is empty", source=context.task, remedy="see what was left out and why in the steps' logs")
    context.publish("priors", joined)
    context.page("card", card(joined))
    context.metrics(samples=len(joined.lines), videos=len({line.video.id for line in joined.lines}))


def card(priors: PriorSet) -> str:
    """The data set's card in Markdown: what it holds, how it was made, what was left out."""
    videos = {line.video.id for line in priors.lines}
    kept = [piece for line in priors.lines for piece in line.pieces if piece.selected]
    every = sum(len(line.pieces) for line in priors.lines)
    frequent = Counter(head for line in priors.lines for head in line.heads)
    rows = [
        "# Motion-prior set",
        "",
        f"`sha256:{priors.digest}`",
        "",
        f"{len(priors.lines)} samples of {len(videos)} videos; {len(kept)} of {every} text tokens selected.",
        "",
        "## Decisions",
        "",
        "| step | parameter | value |",
        "|---|---|---|",
    ]
    for task, record in sorted(priors.provenance.items()):
        values = {
            **record.scalars,
            **record.params,
            **{role: f"{model.name} ({model.digest[:12]})" for role, model in record.models.items()},
        }
        rows += [f"| {task} v{record.version} | {name} | `{value}` |" for name, value in sorted(values.items())]
    rows += ["", "## Confidence", "", "| from | samples |", "|---|---|"]
    bins = Counter(min(int(line.confidence.value * 10), 9) for line in priors.lines)
    rows += [f"| {index / 10:.1f} | {bins[index]} |" for index in range(10) if bins[index]]
    rows += ["", "## Heads", "", "| head | chosen in | DFC ± s.e. | TCS | DSR | score |", "|---|---|---|---|---|---|"]
    rows += [
        f"| {row.head} | {frequent[row.head]} of {len(priors.lines)} | {row.dfc:.4g} ± {row.dfc_stderr:.2g} | {row.tcs:.3g} "
        f"| {row.dsr:.3g} | {row.score:+.2f} |"
        for row in sorted(priors.heads, key=lambda row: -row.score)
    ]
    rows += ["", "## Left out", ""]
    rows += [f"* {item.unit} ({item.task}): {item.reason}" for item in priors.left_out] or ["Nothing."]
    return "\n".join(rows) + "\n"


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
