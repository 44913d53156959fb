"""What each variant of a run adds to those before it, as a table: hours new and shared, by step.

Two variants share work where its key in the store follows from the same values. Of the video model that is exact; a
training and an evaluation count as the same where every parameter on the way to them is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from components.core.records import canonical_json, sha256
from components.core.units import readable_bytes, readable_hours
from components.pages.markdown import document, table
from components.plan.cost import PlannedVideo
from components.plan.limits import Task
from components.runtime.declaration import declared
from components.runtime.parameters import Shard, SharedParams, validated
from components.runtime.variants import Variant, changed, merged, parse_variants, refuse_unknown
from components.steps import EXTRACTION

COLUMNS = ("inversion", "capture", "training", "evaluation")  # the VLM's own maps count as training


@dataclass(frozen=True)
class Arm:
    """A variant with all parameters that it has, validated."""

    variant: Variant
    shared: Any
    params: Mapping[str, Any]


def arms(shared: SharedParams, step_params: Mapping[str, Any], variants: Sequence[Any]) -> list[Arm]:
    """Return every variant with its parameters.

    Raises:
        ParameterError: it changes what is no parameter of the pipeline, or to a value that does not validate; with the
            variant's and the field's name.
    """
    return [_arm(shared, step_params, variant) for variant in parse_variants(variants)]


def _arm(shared: SharedParams, step_params: Mapping[str, Any], variant: Variant) -> Arm:
    name, own = variant.name, {f"params_{step}": values for step, values in step_params.items()}
    refuse_unknown([variant], {*type(shared).model_fields, *own})
    values = changed(shared.model_dump(), variant.changes)
    given = {step: merged(own[f"params_{step}"], variant.changes.get(f"params_{step}", {})) for step in step_params}
    params = {
        step: validated(declared(step).params, value, f"variant {name!r}, params_{step}")
        for step, value in given.items()
    }
    return Arm(variant, validated(type(shared), values, f"variant {name!r}"), params)


@dataclass
class Hours:
    """Hours of a variant by step: new ones, and those of work that an earlier variant or run has done."""

    new: dict[str, float] = field(default_factory=dict)
    shared: dict[str, float] = field(default_factory=dict)
    kept: float = 0.0  # bytes that it adds to the store, scratch apart

    def add(self, step: str, hours: float, new: bool) -> None:
        """Count a step's work."""
        side = self.new if new else self.shared
        side[step] = side.get(step, 0.0) + hours


@dataclass
class Counted:
    """The work that variants have counted so far."""

    keys: set[str] = field(default_factory=set)

    def first(self, what: Any) -> bool:
        """Return whether this work is counted for the first time, and count it."""
        key = sha256(canonical_json(what))
        new = key not in self.keys
        self.keys.add(key)
        return new

    def mark(self, video: PlannedVideo, imported: Any, inverted: Any, captured: Sequence[Any]) -> PlannedVideo:
        """Return a video for which what an earlier variant counted is as good as remembered; the rest is counted."""
        again = not self.first(imported), not self.first(inverted), [not self.first(one) for one in captured]
        known = [*video.captured, *([""] * (len(captured) - len(video.captured)))]
        marks = [key or ("counted" if twice else "") for key, twice in zip(known, again[2], strict=True)]
        return replace(
            video,
            imported=video.imported or again[0],
            inverted=video.inverted or again[1],
            captured=marks,
        )


def fresh(video: PlannedVideo) -> PlannedVideo:
    """Return a video as if nothing of it were remembered."""
    return replace(video, imported=False, inverted=False, captured=())


def extracted(arm: Arm, vdm: str) -> Any:
    """Return what a variant's prior set follows from."""
    steps = {name: [arm.params[name].result(), declared(name).shared_result(arm.shared)] for name in EXTRACTION}
    return [arm.shared.source, vdm, steps]


def dealt(trainings: Sequence[float], parts: Sequence[str]) -> list[float]:
    """Return the hours of each part that different trainings are dealt out to, in their order."""
    count = len(parts)
    return [sum(trainings[Shard.parse(part).index :: count]) for part in parts]


def joined(tasks: Sequence[Task]) -> list[Task]:
    """Return one task for those of one name: a pod does the work of all variants, one after another."""
    found: dict[str, Task] = {}
    for task in tasks:
        if (before := found.get(task.name)) is None:
            found[task.name] = task
            continue
        peaks = [one.peak for one in (before, task) if one.peak is not None]
        peak = None
        if peaks:
            largest = {name: max(getattr(one, name) for one in peaks) for name in ("main", "device", "pictured")}
            peak = replace(peaks[0], **largest)
        hours, units = before.hours + task.hours, before.units + task.units
        found[task.name] = replace(before, hours=hours, units=units, peak=peak)
    return list(found.values())


def page(arms_hours: Sequence[tuple[Arm, Hours]], baseline: str, seeds: Sequence[int]) -> str:
    """Return the table: for each variant the hours of every step that are new, and those that are shared."""
    rows: list[tuple[str, ...]] = []
    for arm, hours in arms_hours:
        for name, side in (("new", hours.new), ("shared", hours.shared)):
            cells = [_hours(side.get(column, 0.0)) for column in COLUMNS]
            stored = readable_bytes(hours.kept) if name == "new" else ""
            rows.append((arm.variant.name if name == "new" else "", name, *cells, _hours(sum(side.values())), stored))
    together = [sum(hours.new.get(name, 0.0) for _, hours in arms_hours) for name in COLUMNS]
    stored = readable_bytes(sum(hours.kept for _, hours in arms_hours))
    rows.append(("all", "new", *map(_hours, together), _hours(sum(together)), stored))
    trainings = (
        f"{len(seeds)} trainings each (seeds {', '.join(map(str, seeds))})" if len(seeds) > 1 else "one training"
    )
    return document(
        "## Variants",
        table(("variant", "", *COLUMNS, "all", "maps"), rows),
        f"{len(arms_hours)} variants, {trainings}, compared with {baseline!r}. A100 time; shared: an earlier variant "
        "of the list computes it, or the store has it already. Training with the VLM's attention before it. Maps: "
        "bytes of attention maps and priors that are new. Training and evaluation are upper bounds: what of them is "
        "remembered follows from work that is not done yet.",
    )


def _hours(hours: float) -> str:
    return readable_hours(hours) if hours else "–"
