"""Step 1 · ddim_inversion: each video's latents at all N+1 noise levels, kept in scratch. A unit is one video."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from components.core.artifacts import Trajectories, TrajectoryLine, VideoDataset, VideoLine
from components.core.records import Json, smallest_by_hash
from components.ddim_inversion.page import page
from components.ddim_inversion.settings import InversionSettings
from components.media.sampling import refuse_image
from components.models.registry import resolve
from components.models.video import family_of
from components.models.video.interface import VideoModel
from components.pages.page import DRAWING
from components.runtime.context import Context, remembered_pictures
from components.runtime.declaration import Step
from components.runtime.parameters import NumSteps, ShardParams, StagedParams, Vdm, operational
from components.runtime.stages import Stages
from components.store.entries import WorkFolder

if TYPE_CHECKING:
    from components.ddim_inversion.video import SampledClip
    from components.models.family import Tensor


class Params(InversionSettings, StagedParams):
    """Parameters of the inversion."""

    pictures: int = operational(
        2, ge=0, le=4, description="videos that are pictured: those with the smallest sha256(video id)"
    )


class Shared(ShardParams):
    """The shared parameters that the inversion reads."""

    vdm: Vdm
    num_steps: NumSteps


def run(context: Context[Params, Shared]) -> None:
    """Invert every video of this shard that is not remembered."""
    data = context.input("videos", VideoDataset)
    model = resolve(context.shared.vdm, context.store)
    context.models["vdm"] = model.id
    family = family_of(model.path)
    family.check(context.params.num_frames)
    units = [*data.lines.within(*context.shared.bounds)]

    @cache
    def vdm() -> VideoModel:
        from components.models.video import load_vdm

        return load_vdm(model.path, context.params.dtype)

    def read(line: VideoLine) -> SampledClip:
        from components.ddim_inversion.video import sample_clip

        refuse_image(line.video)
        with context.store.borrowed(line.video.file) as path:
            return sample_clip(family.frames, line.video, context.params, path)

    def invert(line: VideoLine, clip: Callable[[], SampledClip]) -> tuple[Tensor, Json]:
        from components.ddim_inversion.video import invert_video

        frames = clip()  # first: where no video can be read, no model is loaded
        done = invert_video(vdm(), frames, context.params, context.shared.num_steps)
        numbers = {"grid": done.grid.model_dump(mode="json"), "frames": done.frames, "residual": done.residual}
        return done.latents.cpu(), numbers

    def write(line: VideoLine, inverted: tuple[Tensor, Json], folder: WorkFolder) -> Json:
        from components.store.tensors import pack

        latents, numbers = inverted
        folder.put("latents", "safetensors", pack({"latents": latents}, line.video.id), scratch=True)
        return numbers

    entries = context.each(
        units,
        name=_video,
        reads=lambda line: {"video": line.video.id},
        compute=Stages(prepare=read, compute=invert, write=write, prefetch=context.params.prefetch),
        called=lambda line: line.video.called,
        scope={"shard": context.shared.shard},
    )

    def made(line: VideoLine) -> TrajectoryLine:
        entry = entries[line.video.id]
        return TrajectoryLine(**dict(line), **entry.numbers, **entry.refs(context.task), key=entry.key)

    found = [line for line in units if line.video.id in entries]
    lines = context.lines(TrajectoryLine, map(made, found))
    context.publish("trajectories", context.manifest(Trajectories, shard=context.shared.shard, lines=lines))

    def picture_reads(line: TrajectoryLine) -> Json:
        return {"drawing": DRAWING, "trajectory": line.key}

    def paint(line: TrajectoryLine, folder: WorkFolder) -> Json:
        from components.ddim_inversion.pictures import inversion_picture

        figure, numbers = inversion_picture(vdm(), context.store, line, context.params, context.shared.num_steps)
        folder.put("figure", "html", figure.encode())
        return numbers

    by_id = {line.video.id: line for line in found}
    shown = [made(by_id[name]) for name in smallest_by_hash(list(by_id), context.params.pictures)]
    drawn = remembered_pictures(context, shown, name=_video, reads=picture_reads, paint=paint)
    context.page("preview", page(context, drawn))
    context.metrics()


def _video(line: VideoLine) -> str:
    return line.video.id


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
