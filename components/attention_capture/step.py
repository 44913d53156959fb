"""Step 2 · attention_capture: reconstruct each video under its text and read the attention while it happens.

A unit is one sample. Stored per sample: t2v of all heads, or under `keep: selected` its mean over the heads that are
chosen here, in fp16 (density relative to uniform), and the head statistics. A trajectory that scratch no longer holds
is computed again here.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from components.attention_capture.page import page
from components.attention_capture.settings import Params, reads
from components.core.artifacts import AttentionLine, AttentionMaps, Trajectories, TrajectoryLine
from components.core.records import Json, Sample, canonical_json, smallest_by_hash
from components.core.text import conditioning
from components.ddim_inversion.settings import InversionSettings
from components.models.registry import ResolvedModel, resolve
from components.models.video import family_of
from components.models.video.interface import VideoModel
from components.pages.page import DRAWING
from components.runtime.context import Context, remembered_pictures
from components.runtime.declaration import Step
from components.runtime.parameters import NumSteps, Seed, ShardParams, Text, Vdm
from components.runtime.stages import Stages
from components.store.entries import WorkFolder
from components.store.packed import put_files

if TYPE_CHECKING:
    from components.ddim_inversion.video import SampledClip
    from components.models.family import Tensor


class Shared(ShardParams):
    """The shared parameters that the capture reads."""

    vdm: Vdm
    num_steps: NumSteps
    text: Text
    seed: Seed


@dataclass(frozen=True)
class Unit:
    """A sample of an inverted video."""

    line: TrajectoryLine
    sample: Sample

    @property
    def name(self) -> str:
        """The sample's id."""
        return self.sample.id

    @property
    def called(self) -> str:
        """What failures call it."""
        return self.sample.called(self.line.video)


class Kept(NamedTuple):
    """What is stored of a sample: density relative to uniform ([h, T, S] or [T, S]), statistics, pieces, numbers."""

    density: Tensor
    statistics: dict[str, Tensor]
    pieces: bytes
    numbers: Json


def run(context: Context[Params, Shared]) -> None:
    """Capture every sample of this shard that is not remembered."""
    data = context.input("trajectories", Trajectories)
    model = resolve(context.shared.vdm, context.store)
    context.models["vdm"] = model.id
    settings = InversionSettings.model_validate({**data.provenance["ddim_inversion"].params})
    units = [Unit(line, sample) for line in data.lines for sample in sorted(line.samples, key=lambda one: one.id)]
    shown = smallest_by_hash([unit.name for unit in units], context.params.pictures)
    work = Capture(context, model, settings, shown)

    def unit_reads(unit: Unit) -> Json:
        return reads(unit.line.key, unit.sample, context.shared.text)

    def picture_reads(unit: Unit) -> Json:
        return {"drawing": DRAWING, "maps": entries[unit.name].key}

    stages = Stages(
        prepare=work.source,
        compute=work.maps,
        write=work.write,
        prefetch=context.params.prefetch,
        shared=lambda unit: unit.line.video.id,
    )
    entries = context.each(
        units,
        name=_name,
        reads=unit_reads,
        compute=stages,
        called=lambda unit: unit.called,
        scope={"shard": data.shard},
        packed="statistics",
    )
    pictured = [unit for unit in units if unit.name in shown and unit.name in entries]
    found = remembered_pictures(context, pictured, name=_name, reads=picture_reads, paint=work.pictures)
    pictures = {entry.unit: entry.refs(context.task) for entry in found}

    def made(unit: Unit) -> AttentionLine:
        entry = entries[unit.name]
        video: Json = {"video": unit.line.video, "mask": unit.line.mask, "grid": unit.line.grid}
        own = {**entry.numbers, **entry.refs(context.task), "pictures": pictures.get(unit.name, {})}
        return AttentionLine(**video, **own, sample=unit.sample, key=entry.key)

    lines = context.lines(AttentionLine, (made(unit) for unit in units if unit.name in entries))
    statistics = put_files(context.store, entries.files, context.task)
    context.publish("maps", context.manifest(AttentionMaps, shard=data.shard, lines=lines, statistics=statistics))
    context.page("preview", page(context, [made(unit) for unit in pictured], found))
    context.metrics()


def _name(unit: Unit) -> str:
    return unit.name


class Capture:
    """The work on one sample. torch is imported and the model loaded with the first sample that is not remembered."""

    def __init__(
        self, context: Context[Params, Shared], model: ResolvedModel, settings: InversionSettings, shown: Container[str]
    ) -> None:
        self.context, self.model, self.settings, self.shown = context, model, settings, shown
        self._kept: dict[str, Any] = {}  # captures of this process that are still to be pictured

    @cached_property
    def vdm(self) -> VideoModel:
        """The video model."""
        from components.models.video import load_vdm

        return load_vdm(self.model.path, self.settings.dtype)

    def source(self, unit: Unit) -> Tensor | SampledClip:
        """Read a sample's trajectory, or the frames to invert again; it needs no model."""
        from components.ddim_inversion.video import read_source

        line, counts = unit.line, lambda: family_of(self.model.path).frames
        return read_source(self.context.store, line.latents, line.video, counts, self.settings)

    def maps(self, unit: Unit, source: Callable[[], Tensor | SampledClip]) -> Kept:
        """Capture a sample."""
        self._check(unit)
        result = self._captured(unit, self._trajectory(source()))
        if unit.name in self.shown:
            self._kept[unit.name] = result
        pieces = canonical_json([piece.model_dump(mode="json") for piece in result.pieces])
        unread = [span.model_dump(mode="json") for span in result.unread]
        statistics = {name: values.cpu() for name, values in result.statistics.tensors().items()}
        numbers: Json = {"unread": unread, "truncated": result.truncated}
        if result.heads is not None:
            numbers["heads"] = result.heads
        return Kept(result.density, statistics, pieces, numbers)

    def write(self, unit: Unit, kept: Kept, folder: WorkFolder) -> Json:
        """Store a sample's maps, statistics and pieces."""
        from components.store.tensors import pack

        source = f"sample {unit.name}"
        # fp16 of the density relative to uniform: unscaled values would be subnormal there
        folder.put("maps", "safetensors", pack({"t2v": kept.density.half()}, source))
        folder.put("statistics", "safetensors", pack(kept.statistics, source))
        folder.put("pieces", "json", kept.pieces)
        return kept.numbers

    def pictures(self, unit: Unit, folder: WorkFolder) -> Json:
        """Draw a sample; what this process did not capture just now is captured again."""
        from components.attention_capture.pictures import head_thumbnails, reconstruction_strip
        from components.ddim_inversion.video import sample_clip

        trajectory = self._trajectory(self.source(unit))
        result = self._kept.pop(unit.name, None) or self._captured(unit, trajectory)
        with self.context.store.borrowed(unit.line.video.file) as path:
            frames = sample_clip(self.vdm.frames, unit.line.video, self.settings, path).pixels
        strip, error = reconstruction_strip(self.vdm, frames, trajectory, result)
        folder.put("reconstruction", "png", strip)
        folder.put("heads", "png", head_thumbnails(result))
        return {"latent_error": error}

    def _check(self, unit: Unit) -> None:
        """Raise DataError for a text that cannot be read, before a trajectory is computed for it."""
        from components.attention_capture.sample import read_text

        text, parts = conditioning(unit.sample, self.context.shared.text)
        read_text(self.vdm, text, parts, self.context.params.max_unreadable, unit.name)

    def _captured(self, unit: Unit, trajectory: Any) -> Any:
        from components.attention_capture.sample import capture_sample

        params, shared = self.context.params, self.context.shared
        text, parts = conditioning(unit.sample, shared.text)
        return capture_sample(self.vdm, trajectory, text, parts, params, shared.num_steps, shared.seed, unit.name)

    def _trajectory(self, source: Tensor | SampledClip) -> Tensor:
        from components.ddim_inversion.video import trajectory_of

        return trajectory_of(source, lambda: self.vdm, self.settings, self.context.shared.num_steps)


STEP = Step(
    name="attention_capture",
    version="3",
    title="2 · Attention capture",
    unit="sample",
    device="gpu",
    params=Params,
    shared=Shared,
    run=run,
    inputs={"trajectories": Trajectories},
    outputs={"maps": AttentionMaps},
    pages={"metrics": "Metrics", "preview": "HTML"},
)
