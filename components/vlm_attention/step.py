"""Step 5 · vlm_attention: the prior's words in the VLM, and the VLM's own attention for them. A unit is one sample.

Two works per sample: the token map with its coverage (`vlm_attention/<key>`), which follows from text and sizes, and
A_VLM on the prior's grid with its distance to the prior (`vlm_attention_maps/<key>`), which reads the first by key;
`maps_for` chooses the samples of the second. Only the second decodes a video and loads weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from components.core.artifacts import PriorLine, PriorSet, TunedModel, VlmLine, VlmMaps
from components.core.errors import DataError
from components.core.records import Json, ScoredPiece
from components.runtime.chosen_vlm import ChosenVlm, chosen_vlm
from components.runtime.context import Context
from components.runtime.declaration import Form, Step
from components.runtime.parameters import ShardParams, SharedParams, Vlm
from components.runtime.stages import Stages
from components.store.entries import WorkFolder
from components.vlm_attention.page import page
from components.vlm_attention.settings import Params

if TYPE_CHECKING:
    from components.models.family import Tensor

MAPS = "vlm_attention_maps"


class Frozen(ShardParams):
    """The untouched model, which reads the samples of a shard; the tuned one reads the pictured samples."""

    vlm: Vlm


class Seen(NamedTuple):
    """What a sample's map is made of: the packed token map and prior, and the clip's pixels as the VLM takes them."""

    words: bytes
    prior: bytes
    pixels: dict[str, Tensor]


def _name(line: PriorLine) -> str:
    return line.sample.id


def _called(line: PriorLine) -> str:
    return line.called


def run(context: Context[Params, Frozen | SharedParams]) -> None:
    """Compute token maps and maps of this shard (frozen model), or of the pictured samples (tuned model)."""
    priors = context.input("priors", PriorSet)
    shown = set(priors.smallest(context.params.pictures))
    shared = context.shared
    if isinstance(shared, Frozen):
        shard, units = shared.shard, [*priors.lines.within(*shared.bounds)]
    else:
        shard, units = "0/1", [line for line in priors.lines if _name(line) in shown]
    with chosen_vlm(context, rows=True) as vlm:
        found = _lines(context, units, shown, vlm, shard)
    mapped: list[VlmLine] = []

    def noted(line: VlmLine) -> VlmLine:
        mapped.extend([line] if line.vlm_map is not None else [])
        return line

    lines = context.lines(VlmLine, map(noted, found))
    context.publish("maps", context.manifest(VlmMaps, shard=shard, lines=lines))
    context.page("preview", page(context, mapped, shown, vlm.name))
    context.metrics(mapped=len(mapped))


def _lines(
    context: Context[Params], units: list[PriorLine], shown: set[str], vlm: ChosenVlm, shard: str
) -> Iterator[VlmLine]:
    params, store, scope = context.params, context.store, {"shard": shard, **vlm.origin}

    def map_words(line: PriorLine, pieces: Callable[[], Sequence[ScoredPiece]]) -> tuple[bytes, Json]:
        from components.vlm_attention.maps import map_tokens

        data, numbers = map_tokens(vlm.reader(), line, pieces(), params.viewing)
        if numbers["coverage"] < params.min_coverage:
            problem = f"coverage {numbers['coverage']:.2f} is below min_coverage={params.min_coverage:g}"
            remedy = "see which words the conversation lacks, or lower min_coverage"
            raise DataError(problem, source=f"sample {line.sample.id}", remedy=remedy)
        return data, numbers

    def write_words(line: PriorLine, mapped: tuple[bytes, Json], folder: WorkFolder) -> Json:
        data, numbers = mapped
        folder.put("token_map", "safetensors", data)
        return numbers

    def read(line: PriorLine) -> Seen:
        words, prior = store.read(tokens[_name(line)].ref("token_map", context.task)), store.read(line.prior)
        with store.borrowed(line.video.file) as path:
            return Seen(words, prior, vlm.load().pixels(line.video, path, params.viewing))

    def attend(line: PriorLine, seen: Callable[[], Seen]) -> tuple[dict[str, Tensor], Json]:
        from components.vlm_attention.maps import map_attention

        model = vlm.load()  # before it is used to read the first clips
        words, prior, pixels = seen()
        return map_attention(model, line, pixels, params.viewing, words, prior, params.grid)

    def write_map(line: PriorLine, mapped: tuple[dict[str, Tensor], Json], folder: WorkFolder) -> Json:
        from components.store.tensors import pack

        tensors, numbers = mapped
        folder.put("vlm_map", "safetensors", pack(tensors, line.sample.id))
        return numbers

    def reads(line: PriorLine) -> Json:
        return {"video": line.video.id, "sample": line.sample.id, "prior": line.key, **vlm.origin}

    in_words = Stages(prepare=store.pieces, compute=map_words, write=write_words, prefetch=params.prefetch)
    tokens = context.each(units, name=_name, reads=reads, compute=in_words, called=_called, scope=scope)
    found = [line for line in units if _name(line) in tokens]
    wanted = [line for line in found if params.maps_for == "all" or _name(line) in shown]

    def map_reads(line: PriorLine) -> Json:
        return {"token_map": tokens[_name(line)].key}

    in_maps = Stages(prepare=read, compute=attend, write=write_map, prefetch=params.prefetch)
    maps = context.each(wanted, name=_name, reads=map_reads, compute=in_maps, work=MAPS, called=_called, scope=scope)
    failed = {_name(line) for line in wanted} - set(maps)

    def made(line: PriorLine) -> VlmLine:
        entry = tokens[_name(line)]
        fields = {name: entry.numbers[name] for name in ("coverage", "tokens")}
        fields["token_map"] = entry.ref("token_map", context.task)
        if (mapped := maps.get(_name(line))) is not None:
            fields |= {"vlm_map": mapped.ref("vlm_map", context.task), "distance": mapped.numbers["distance"]}
        return VlmLine(**{**dict(line), "key": entry.key}, **fields)

    return (made(line) for line in found if _name(line) not in failed)


STEP = Step(
    name="vlm_attention",
    version="2",
    title="5 · VLM attention",
    unit="sample",
    device="gpu",
    params=Params,
    run=run,
    inputs={"priors": PriorSet, "model": TunedModel},
    outputs={"maps": VlmMaps},
    pages={"metrics": "Metrics", "preview": "HTML"},
    forms={"frozen": Form(Frozen, ("priors",)), "tuned": Form(SharedParams, ("priors", "model"))},
)
