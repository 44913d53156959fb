"""Step 1 · ddim_inversion: each video's latents at all N+1 noise levels, kept in scratch. A unit is one video."""

from __future__ import annotations

from functools import cache

from components.core.artifacts import Trajectories, TrajectoryLine, VideoDataset, VideoLine
from components.core.records import Grid, Json
from components.ddim_inversion.page import page, picture_reads
from components.ddim_inversion.settings import InversionSettings
from components.models.registry import resolve
from components.models.video import family_of
from components.models.video.interface import VideoModel
from components.runtime.context import Context, remembered_pictures, smallest_by_hash
from components.runtime.declaration import Step
from components.runtime.parameters import NumSteps, ShardParams, Vdm, operational
from components.store.entries import WorkFolder


class Params(InversionSettings):
    """Parameters of the inversion."""

    pictures: int = operational(
        2, ge=0, le=4, description="videos that are pictured: those with the smallest sha256(video id)"
    )


class Shared(ShardParams):
    """The shared parameters that the inversion reads."""

    vdm: Vdm
    num_steps: NumSteps


def reads(line: VideoLine) -> Json:
    """Return what a unit reads: its video, by content."""
    return {"video": line.video.id}


def run(context: Context[Params, Shared]) -> None:
    """Invert every video of this shard that is not remembered."""
    data = context.input("videos", VideoDataset)
    model = resolve(context.shared.vdm, context.store)
    context.models["vdm"] = model.id
    family_of(model.path).check(context.params.num_frames)
    units = [line for line in data.lines if context.shared.holds(line.video.id)]

    @cache
    def vdm() -> VideoModel:
        from components.models.video import load_vdm

        return load_vdm(model.path, context.params.dtype)

    def compute(line: VideoLine, folder: WorkFolder) -> Json:
        from components.ddim_inversion.video import invert_video
        from components.store.tensors import pack

        with context.store.borrowed(line.video.file) as path:
            done = invert_video(vdm(), path, line.video, context.params, context.shared.num_steps)
        folder.put("latents", "safetensors", pack({"latents": done.latents}, line.video.id), scratch=True)
        return {"grid": done.grid.model_dump(mode="json"), "frames": done.frames, "residual": done.residual}

    entries = context.each(units, name=lambda line: line.video.id, reads=reads, compute=compute)
    lines = [
        TrajectoryLine(
            **dict(line),
            key=entry.key,
            frames=entry.numbers["frames"],
            grid=Grid.model_validate(entry.numbers["grid"]),
            latents=entry.ref("latents", context.task),
            residual=entry.numbers["residual"],
        )
        for line in units
        if (entry := entries.get(line.video.id)) is not None
    ]
    context.publish("trajectories", context.manifest(Trajectories, shard=context.shared.shard, lines=lines))

    def paint(line: TrajectoryLine, folder: WorkFolder) -> Json:
        from components.ddim_inversion.pictures import inversion_picture

        figure, numbers = inversion_picture(vdm(), context.store, line, context.params, context.shared.num_steps)
        folder.put("figure", "html", figure.encode())
        return numbers

    chosen = smallest_by_hash([line.video.id for line in lines], context.params.pictures)
    by_id = {line.video.id: line for line in lines}
    drawn = remembered_pictures(
        context, [by_id[name] for name in chosen], name=lambda line: line.video.id, reads=picture_reads, paint=paint
    )
    context.page("preview", page(context, drawn))
    context.metrics()


STEP = Step(
    name="ddim_inversion",
    version="2",
    title="1 · DDIM inversion",
    unit="video",
    device="gpu",
    params=Params,
    shared=Shared,
    run=run,
    inputs={"videos": VideoDataset},
    outputs={"trajectories": Trajectories},
    pages={"metrics": "Metrics", "preview": "HTML"},
)
