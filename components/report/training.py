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
from components.pages.page import Section, absent, caption
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
    pairs = []
    for name, before, after in _both(material):
        if before.distance is not None and after.distance is not None:
            pairs.append((name, before.distance, after.distance, after.video.id))
    if not pairs:
        return absent("No distance to the prior before and after: no sample has a map of both models.")
    dots = []
    for name, a, b, _ in pairs[:16]:
        dots.append(Dot(name, [(a, None, None, "grey"), (b, None, None, "c1")], f"{number(a)} → {number(b)}"))
    change = mean_interval([b - a for _, a, b, _ in pairs], [video for *_, video in pairs])
    title, legend = "Distance of the VLM's map to the prior", [("before", "grey"), ("after", "c1")]
    chart = dot_plot(title, dots, legend=legend, join=True, label=150, note=170)
    return chart + caption(f"Mean change {_change(change)}. {_absorbed(material, [name for name, *_ in pairs])}")


def _both(material: Material) -> list[tuple[str, VlmLine, VlmLine]]:
    """Return the samples that both models saw: id, line before and line after."""
    found = [(name, material.before.get(name), after) for name, after in sorted(material.after.items())]
    return [(name, before, after) for name, before, after in found if before is not None]


def _change(e: Estimate) -> str:
    between = "" if e.low is None or e.high is None else f" [{signed(e.low, 3)}, {signed(e.high, 3)}]"
    return f"{signed(e.value, 3)}{between}, n = {e.n} pictured samples of {e.clusters} videos"


def _attention(material: Material) -> Markup:
    """Return AUC_obj of the VLM's own map before → after, over the pictured samples with masks."""
    shown = [after for _, before, after in _both(material) if before.vlm_map is not None and after.vlm_map is not None]
    pairs = []
    for scene in scenes(material, shown):
        a, b = (_auc(material, side[scene.sample], scene) for side in (material.before, material.after))
        if a is not None and b is not None:
            pairs.append((a, b, scene.video))
    if not pairs:
        problem = "no pictured sample has a mask with a mover and static objects"
        return absent(f"The VLM's AUC_obj before and after: {problem}.")
    values, videos = np.array([(a, b, b - a) for a, b, _ in pairs]).T, [video for *_, video in pairs]
    untouched, tuned, change = (mean_interval(one.tolist(), videos) for one in values)
    return caption(
        f"AUC_obj of the VLM's own map, mover against static objects: {untouched.value:.3f} → {tuned.value:.3f}, "
        f"change {_change(change)}; .5 is chance."
    )


def _auc(material: Material, line: VlmLine, scene: Scene) -> float | None:
    """Return AUC_obj of one sample's map, mean over the words that the VLM has, over the cells that both models saw."""
    map_TFHW, valid_FHW, covered_T = material.vlm_map(line)
    return weighted_auc(map_TFHW[covered_T].mean(0), scene.mover * valid_FHW, scene.static * valid_FHW)


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
        map_TFHW, valid_FHW, covered_T = map(torch.from_numpy, material.vlm_map(line))
        prior_TFHW = torch.from_numpy(material.tensors(line.prior)["prior"])
        if map_TFHW.shape != prior_TFHW.shape or not bool(valid_FHW.any()):
            return None
        # words without a counterpart are in no loss
        map_TFHW, prior_TFHW = map_TFHW.float()[covered_T], prior_TFHW.float()[covered_T]
        for seen in (map_TFHW, aligner(map_TFHW, valid_FHW)):
            found.append(float(map_distance(seen, prior_TFHW, valid_FHW)))
    return found
