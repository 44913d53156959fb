"""Step 4 · token_selection (MTTI): which words carry motion, and the prior that they make. A unit is one sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.core.artifacts import HeadLine, HeadSelection, MotionPrior, PriorLine
from components.core.records import Json, canonical_json
from components.runtime.context import Context
from components.runtime.declaration import Step
from components.runtime.parameters import ShardParams, TokenRatio
from components.store.entries import Store, WorkFolder
from components.token_selection.members import Members, member_reads, unit_reads
from components.token_selection.settings import Params

if TYPE_CHECKING:
    from components.token_selection.ensemble import Member


class Shared(ShardParams):
    """The shared parameters that the token selection reads."""

    token_ratio: TokenRatio


def run(context: Context[Params, Shared]) -> None:
    """Make the prior of every sample of this shard that is not remembered."""
    data = context.input("heads", HeadSelection)
    units, bounds = [*data.lines.within(*context.shared.bounds)], context.shared.bounds
    members = Members(context.store, context.params.ensemble_with, lambda line: line, *bounds)
    context.models |= members.models

    def reads(line: HeadLine) -> Json:
        return unit_reads(member_reads(line), [member_reads(other) for other in members.of(line.sample.id)])

    def compute(line: HeadLine, folder: WorkFolder) -> Json:
        from components.store.tensors import pack
        from components.token_selection.ensemble import average
        from components.token_selection.motion_score import motion_prior

        own, *others = (member(context.store, one) for one in (line, *members.of(line.sample.id)))
        t2v = average(own, others, f"sample {line.sample.id}")
        options = {"token_ratio": context.shared.token_ratio, **context.params.model_dump(include={"unit", "mtti"})}
        found = motion_prior(t2v, own.pieces, source=line.sample.id, **options)
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


def member(store: Store, line: HeadLine) -> Member:
    """Return a sample's A_t2v of one model."""
    from components.store.tensors import unpack
    from components.token_selection.ensemble import Member
    from components.token_selection.motion_score import aggregate_heads

    maps = aggregate_heads(unpack(store.read(line.maps))["t2v"], line.heads, line.grid.shape)
    return Member(maps, store.pieces(line), line.grid)


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
