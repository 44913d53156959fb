"""Step 4 · token_selection (MTTI): which words carry motion, and the prior that they make. A unit is one sample."""

from __future__ import annotations

from components.core.artifacts import HeadLine, HeadSelection, MotionPrior, PriorLine
from components.core.records import Json, canonical_json
from components.runtime.context import Context
from components.runtime.declaration import Step
from components.runtime.parameters import ShardParams, TokenRatio
from components.store.entries import WorkFolder
from components.token_selection.settings import Params


class Shared(ShardParams):
    """The shared parameters that the token selection reads."""

    token_ratio: TokenRatio


def reads(line: HeadLine) -> Json:
    """Return what a unit reads: the captured maps by key, and the heads chosen for the sample."""
    return {"attention": line.key, "heads": line.heads}


def run(context: Context[Params, Shared]) -> None:
    """Make the prior of every sample of this shard that is not remembered."""
    data = context.input("heads", HeadSelection)
    units = [*data.lines.within(*context.shared.bounds)]

    def compute(line: HeadLine, folder: WorkFolder) -> Json:
        from components.store.tensors import pack, unpack
        from components.token_selection.motion_score import aggregate_heads, motion_prior

        maps = unpack(context.store.read(line.maps))["t2v"]
        t2v = aggregate_heads(maps, line.heads, line.grid.shape)
        options = {"token_ratio": context.shared.token_ratio, **context.params.result()}
        found = motion_prior(t2v, context.store.pieces(line), source=line.sample.id, **options)
        # a mean of maps that are kept in fp16, too: of a density it rounds off at most 1 / 2048
        folder.put("prior", "safetensors", pack({"prior": found.maps_TFHW.half()}, line.sample.id))
        folder.put("per_frame", "safetensors", pack({"per_frame": found.per_frame_TF.float()}, line.sample.id))
        folder.put("pieces", "json", canonical_json([piece.model_dump(mode="json") for piece in found.pieces]))
        counts = {"pieces": len(found.pieces), "selected": sum(piece.selected for piece in found.pieces)}
        return {"counts": counts, "confidence": found.confidence.model_dump(mode="json")}

    entries = context.each(
        units,
        name=lambda line: line.sample.id,
        reads=reads,
        compute=compute,
        called=lambda line: line.called,
        scope={"shard": context.shared.shard},
    )

    def made(line: HeadLine) -> PriorLine:
        entry = entries[line.sample.id]
        carried = {name: value for name, value in line if name in PriorLine.model_fields}
        return PriorLine(**{**carried, **entry.numbers, **entry.refs(context.task), "key": entry.key})

    lines = context.lines(PriorLine, (made(line) for line in units if line.sample.id in entries))
    carried_on = {"shard": context.shared.shard, "heads": data.heads, "saturation": data.saturation}
    context.publish("prior", context.manifest(MotionPrior, lines=lines, **carried_on))
    context.metrics()


STEP = Step(
    name="token_selection",
    version="3",
    title="4 · Token selection (MTTI)",
    unit="sample",
    device="cpu",
    params=Params,
    shared=Shared,
    run=run,
    inputs={"heads": HeadSelection},
    outputs={"prior": MotionPrior},
    pages={"metrics": "Metrics"},
)
