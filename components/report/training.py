"""Section 8 of the report: the training's curves, and the VLM's maps before and after it.

Legend: T words, F H W the prior's grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from markupsafe import Markup

from components.core.artifacts import VlmLine
from components.media.map_algebra import map_distance
from components.pages.charts import Dot, dot_plot
from components.pages.figures import number, signed
from components.pages.section import Section, absent, caption
from components.pages.training_log import training_curves, training_line
from components.quality.measures import Scene, weighted_auc
from components.quality.statistics import Estimate, mean_interval
from components.report.material import Material, scenes
from components.sft.aligner import Aligner
from components.store.tensors import unpack


def training(material: Material) -> Section:
    """Return the training's curves, and the VLM's maps before and after it."""
    body = training_curves(material.log) + _distances(material) + _attention(material)
    return Section("training", "Training", training_line(material.log), body)


def _distances(material: Material) -> Markup:
    """Return the distance to the prior before → after for the pictured samples, and its mean change with interval."""
    pairs = [
        (name, before.distance, after.distance, after.video.id)
        for name, after in sorted(material.after.items())
        if (before := material.before.get(name)) is not None
        and before.distance is not None
        and after.distance is not None
    ]
    if not pairs:
        return absent("No distance to the prior before and after: no sample has a map of both models.")
    dots = [
        Dot(name, [(a, None, None, "grey"), (b, None, None, "c1")], f"{number(a)} → {number(b)}")
        for name, a, b, _ in pairs[:16]
    ]
    change = mean_interval([b - a for _, a, b, _ in pairs], [video for *_, video in pairs])
    chart = dot_plot(
        "Distance of the VLM's map to the prior",
        dots,
        legend=[("before", "grey"), ("after", "c1")],
        join=True,
        label=150,
        note=170,
    )
    return chart + caption(f"Mean change {_change(change)}. {_absorbed(material, [name for name, *_ in pairs])}")


def _change(e: Estimate) -> str:
    between = "" if e.low is None or e.high is None else f" [{signed(e.low, 3)}, {signed(e.high, 3)}]"
    return f"{signed(e.value, 3)}{between}, n = {e.n} pictured samples of {e.clusters} videos"


def _attention(material: Material) -> Markup:
    """Return AUC_obj of the VLM's own map before → after, over the pictured samples with masks."""
    shown = [
        after
        for name, after in sorted(material.after.items())
        if after.vlm_map is not None
        and (before := material.before.get(name)) is not None
        and before.vlm_map is not None
    ]
    pairs = []
    for scene in scenes(material, shown):
        values = [_auc(material, side[scene.sample], scene) for side in (material.before, material.after)]
        if values[0] is not None and values[1] is not None:
            pairs.append((values[0], values[1], scene.video))
    if not pairs:
        return absent(
            "The VLM's AUC_obj before and after: no pictured sample has a mask with a mover and static objects."
        )
    videos = [video for *_, video in pairs]
    untouched, tuned, change = (
        mean_interval(values, videos)
        for values in ([a for a, _, _ in pairs], [b for _, b, _ in pairs], [b - a for a, b, _ in pairs])
    )
    return caption(
        f"AUC_obj of the VLM's own map, mover against static objects: {untouched.value:.3f} → {tuned.value:.3f}, "
        f"change {_change(change)}; .5 is chance."
    )


def _auc(material: Material, line: VlmLine, scene: Scene) -> float | None:
    """Return AUC_obj of one sample's map, mean over the words that the VLM has, over the cells that both models saw."""
    assert line.vlm_map is not None
    stored = unpack(material.store.read(line.vlm_map))
    valid_FHW, map_TFHW = stored["valid"].numpy().astype(bool), stored["map"].float()
    covered_T = stored.get("covered", torch.ones(len(map_TFHW), dtype=torch.bool))
    map_FHW = map_TFHW[covered_T].mean(0).numpy()
    return weighted_auc(map_FHW, scene.mover * valid_FHW, scene.static * valid_FHW)


def _absorbed(material: Material, names: Sequence[str]) -> str:
    """Return how much of the distance the aligner alone takes away, for the frozen model's maps and the tuned one's."""
    if not material.model.aligner:
        return "The run has no aligner (aligner: none, or λ = 0), so nothing was absorbed by one."
    weights = unpack(material.store.read(material.model.aligner[0]))
    aligner = Aligner("local" if weights["read.weight"].shape[-1] > 1 else "pointwise")
    aligner.load_state_dict(weights)
    gaps = [gap for name in names if (gap := _gaps(material, name, aligner)) is not None]
    if not gaps:
        return "What the aligner absorbs is not known: no pictured map has a row for each word of its prior."
    before, through, after, after_through = np.mean(gaps, axis=0).tolist()
    return (
        f"The aligner alone takes the untouched model's distance from {number(before)} to {number(through)}, and the "
        f"tuned model's from {number(after)} to {number(after_through)} (means, n = {len(gaps)}); it is not used at "
        "inference."
    )


@torch.no_grad()
def _gaps(material: Material, name: str, aligner: Aligner) -> list[float] | None:
    """Return distances to the prior before and after tuning, each without and with the aligner.

    None where the rows do not correspond.
    """
    found = []
    for line in (material.before[name], material.after[name]):
        assert line.vlm_map is not None
        stored = unpack(material.store.read(line.vlm_map))
        map_TFHW, valid_FHW = stored["map"].float(), stored["valid"].bool()
        prior_TFHW = unpack(material.store.read(line.prior))["prior"].float()
        if map_TFHW.shape != prior_TFHW.shape or not bool(valid_FHW.any()):
            return None
        # words without a counterpart are in no loss
        covered_T = stored.get("covered", torch.ones(len(map_TFHW), dtype=torch.bool))
        map_TFHW, prior_TFHW = map_TFHW[covered_T], prior_TFHW[covered_T]
        for seen in (map_TFHW, aligner(map_TFHW, valid_FHW)):
            found.append(float(map_distance(seen, prior_TFHW, valid_FHW)))
    return found
