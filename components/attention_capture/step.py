"""Step 2 · attention_capture: reconstruct each video under its text and read the attention while it happens. A unit is one sample.

Stored per sample: t2v of all heads in fp16 (density relative to uniform) and the head statistics. A trajectory that scratch no longer
holds is computed again here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import Field

from components.core.artifacts import AttentionLine, AttentionMaps, Json, Piece, Sample, Trajectories, TrajectoryLine
from components.core.step import Context, Step, StepParams, operational
from components.core.store import WorkFolder
from components.core.text import conditioning
from components.ddim_inversion.settings import InversionSettings
from components.models.registry import resolve


class Params(StepParams):
    """Parameters of the reconstruction and the capture (method step 2)."""

    guidance_scale: float = Field(6.0, ge=1, description="classifier-free guidance of the reconstruction")
    start: Literal["inverted", "noise"] = Field("inverted", description="where the reconstruction starts")
    memory: bool = Field(True, description="cross-stream memory: the main stream also attends to the inverted latent of its noise level")
    norm: Literal["own", "joint", "fold"] = Field("own", description="softmax over own keys, over both, or both folded by position")
    rows: int = Field(512, ge=2, description="sampled rows R of the v2v map for the DFC denominator; R ≥ S is exact")
    keep: Literal["all"] = Field("all", description="maps of all heads are stored")
    granularity: Literal["head"] = Field("head", description="heads averaged over layers first")
    pictures: int = operational(8, ge=0, description="samples that are pictured: those with the smallest sha256(sample id)")


@dataclass(frozen=True)
class Unit:
    """A sample of an inverted video."""

    line: TrajectoryLine
    sample: Sample


def reads(trajectory_key: str, sample: Sample, text: Literal["question", "response", "both"]) -> Json:
    """What a unit reads: its video's trajectory by key, and its text."""
    words, parts = conditioning(sample, text)
    return {"trajectory": trajectory_key, "text": words, "parts": [[part.field, part.start] for part in parts], "sample": sample.id}


def run(context: Context[Params]) -> None:
    """Capture every sample of this shard that is not remembered."""
    data = context.input("trajectories", Trajectories)
    model = resolve(context.scalars.vdm, context.store)
    context.models["vdm"] = model.id
    settings = InversionSettings.model_validate({**data.provenance["ddim_inversion"].params})
    units = [Unit(line, sample) for line in data.lines for sample in line.samples]

    @cache
    def tools() -> tuple[Any, Any]:
        from components.attention_capture import sample as algorithm
        from components.models.vdm import load_vdm

        return load_vdm(model.path, settings.dtype), algorithm

    def compute(unit: Unit, folder: WorkFolder) -> Json:
        vdm, algorithm = tools()
        trajectory = _trajectory(context, vdm, unit.line, settings)
        text, parts = conditioning(unit.sample, context.scalars.text)
        result = algorithm.capture_sample(vdm, trajectory, text, parts, context.params, context.scalars.num_steps, context.scalars.seed)
        folder.put("maps", "safetensors", algorithm.pack_maps(result, unit.sample.id))
        folder.put("statistics", "safetensors", algorithm.pack_statistics(result, unit.sample.id))
        return {"pieces": [piece.model_dump(mode="json") for piece in result.pieces], "truncated": result.truncated}

    def unit_reads(unit: Unit) -> Json:
        return reads(unit.line.key, unit.sample, context.scalars.text)

    entries = context.each(units, name=lambda unit: unit.sample.id, reads=unit_reads, compute=compute)
    lines = [
        AttentionLine(
            video=unit.line.video,
            mask=unit.line.mask,
            sample=unit.sample,
            key=entry.key,
            grid=unit.line.grid,
            pieces=[Piece.model_validate(piece) for piece in entry.numbers["pieces"]],
            truncated=entry.numbers["truncated"],
            maps=entry.ref("maps", context.task),
            statistics=entry.ref("statistics", context.task),
        )
        for unit in units
        if (entry := entries.get(unit.sample.id)) is not None
    ]
    context.publish("maps", context.manifest(AttentionMaps, shard=data.shard, lines=sorted(lines, key=lambda line: line.sample.id)))
    context.metrics()


def _trajectory(context: Context[Params], vdm: Any, line: TrajectoryLine, settings: InversionSettings) -> Any:
    """The latents of all levels; inverted again where scratch was emptied."""
    from components.ddim_inversion.video import invert_video
    from components.models.tensors import unpack

    if context.store.present(line.latents):
        return unpack(context.store.read(line.latents))["latents"]
    path = context.store.fetch(line.video.file)
    return invert_video(vdm, path, line.video, settings, context.scalars.num_steps).latents


STEP = Step(
    name="attention_capture",
    version="1",
    title="2 · Attention capture",
    unit="sample",
    device="gpu",
    params=Params,
    run=run,
    scalars=("vdm", "num_steps", "text", "seed", "shard"),
    inputs={"trajectories": Trajectories},
    outputs={"maps": AttentionMaps},
    pages={"metrics": "Metrics"},
)
