"""How well a motion prior finds what moves, where the mover's mask is known: AUC_obj, pointing game, track, references.

AUC_obj = P(a(mover) > a(static)) + P(=)/2 for a place drawn from the mover's area and one from the static objects'
area: cells weigh with the covered area, so no threshold enters and objects smaller than a cell count. Background is
left out: any map of contrast finds objects, the question is whether it finds the moving one. A position bias that all
clips share is taken out by subtracting the mean map of the *other* videos (`debiased`), and shown by a permutation
null: the same maps against other clips' masks.
Pointing game: the strongest cell of a frame (`pointing`) or of the whole map (`peak`) lies on the mover where the mover
covers more than a tenth of it; chance is the share of such cells. Track: the path of the map's centre of mass against
the mover's.

Legend: F H W the prior's grid, n samples, v videos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from components.core.errors import DataError
from components.core.records import Grid
from components.quality.statistics import Estimate, mean_interval

Map = Float[np.ndarray, "F H W"]
_COVERED = 0.1  # share of a cell, from which on it lies on the mover
_TIE = 1e-9  # relative to the map's largest magnitude: cells nearer than this to the strongest are as strong
_STILL = 1e-6  # cells: a path that deviates less from its mean stands still


@dataclass(frozen=True)
class Scene:
    """One sample: its map and the areas of the mover and of the static objects, all on the prior's grid."""

    sample: str
    video: str
    prior: Map
    mover: Map
    static: Map
    references: dict[str, Map] = field(default_factory=dict)


@dataclass(frozen=True)
class Permutation:
    """Mean AUC_obj against the same maps with other videos' masks; p = (1 + #null ≥ observed) / (1 + draws)."""

    observed: float
    null_mean: float
    null_std: float
    p: float
    draws: int
    n: int
    clusters: int


@dataclass(frozen=True)
class Quality:
    """What `assess` finds, by name of the map (prior, debiased, references) or by sample."""

    rows: dict[str, Estimate]  # AUC_obj
    permutation: Permutation | None  # of the prior's AUC_obj
    by_sample: dict[str, float]  # AUC_obj of the prior
    pointing: dict[str, Estimate] = field(default_factory=dict)
    chance: float = 0.0  # of the pointing game, for a cell drawn uniformly
    peaks: dict[str, tuple[float, float]] = field(default_factory=dict)  # by sample: `peak` of the prior, its chance
    track: dict[str, Estimate] = field(default_factory=dict)


def weighted_auc(scores: Map, positive: Map, negative: Map) -> float | None:
    """Return P(score of a place drawn by `positive` > one drawn by `negative`), ties half; None without area."""
    values, place = np.unique(scores.ravel(), return_inverse=True)
    plus = np.bincount(place, positive.ravel().astype(np.float64), len(values))
    minus = np.bincount(place, negative.ravel().astype(np.float64), len(values))
    total = plus.sum() * minus.sum()
    if total == 0:
        return None
    below = np.cumsum(minus) - minus
    return float((plus * (below + minus / 2)).sum() / total)


def auc_obj(scene: Scene, map_FHW: Map) -> float | None:
    """Return the AUC of the mover's area against the static objects'; None where one of them has no area."""
    return weighted_auc(map_FHW, scene.mover, scene.static)


def on_mover(scene: Scene) -> Bool[np.ndarray, "F H W"]:
    """Return the cells that lie on the mover: it covers more than a tenth of their area and time."""
    return np.asarray(scene.mover > _COVERED)


def pointing(scene: Scene, map_FHW: Map) -> float | None:
    """Return the share of the frames whose strongest cell lies on the mover; None where no frame has such a cell.

    Frames without one are left out. Equally strong cells share a frame's hit, so a flat map gets chance.
    """
    hits = [_hit(map_HW, on_HW) for map_HW, on_HW in zip(map_FHW, on_mover(scene), strict=True) if on_HW.any()]
    return float(np.mean(hits)) if hits else None


def pointing_chance(scene: Scene) -> float | None:
    """Return the pointing game's expected value for a cell drawn uniformly in each frame."""
    return pointing(scene, np.zeros(scene.mover.shape))


def peak(scene: Scene, map_FHW: Map) -> float | None:
    """Return 1 where the strongest cell of the whole map lies on the mover, else 0; equally strong cells share it."""
    on_FHW = on_mover(scene)
    return _hit(map_FHW, on_FHW) if on_FHW.any() else None


def _hit(values: np.ndarray, on: np.ndarray) -> float:
    strongest = values >= values.max() - _TIE * np.abs(values).max()
    return float(on[strongest].mean())


def track(scene: Scene, map_FHW: Map) -> float | None:
    """Return the correlation of the path of the map's centre of mass with that of the mover's, −1 to 1; chance is 0.

    r = Σ p·m / √(Σ|p|² · Σ|m|²) over the frames with a mover, p and m the paths (row, column; in cells) minus their
    means. A frame's centre of mass is that of the map above its minimum. 0 where the map's path stands still: it shows
    no motion; None where the mover's does, or is seen in fewer than two frames.
    """
    seen = scene.mover.sum((1, 2)) > 0
    if seen.sum() < 2:
        return None
    above = map_FHW - map_FHW.min((1, 2), keepdims=True)
    moved, found = _path(scene.mover[seen]), _path(above[seen])
    spread, spread_found = np.square(moved).sum(), np.square(found).sum()
    limit = _STILL**2 * len(moved)
    if spread <= limit:
        return None
    return float((moved * found).sum() / np.sqrt(spread * spread_found)) if spread_found > limit else 0.0


def _path(weight_FHW: Map) -> Float[np.ndarray, "F 2"]:
    """Return each frame's centre of mass (row, column) minus their mean; a frame without mass has the middle."""
    weight = weight_FHW.astype(np.float64)
    weight = np.where(weight.sum((1, 2), keepdims=True) > 0, weight, 1.0)
    weight /= weight.sum((1, 2), keepdims=True)
    rows, cols = weight.sum(2) @ np.arange(weight.shape[1]), weight.sum(1) @ np.arange(weight.shape[2])
    path = np.stack([rows, cols], axis=1)
    return np.asarray(path - path.mean(0))


Measure = Callable[[Scene, Map], float | None]


def values_of(measure: Measure, scenes: Sequence[Scene], maps: Sequence[Map]) -> dict[str, float]:
    """Return a measure of each sample's map, by sample id; samples where it is not defined are left out."""
    found = {scene.sample: measure(scene, map_FHW) for scene, map_FHW in zip(scenes, maps, strict=True)}
    return {sample: value for sample, value in found.items() if value is not None}


def debiased(scenes: Sequence[Scene]) -> list[Map]:
    """Return each map minus the mean map of the other videos' samples; DataError unless two videos share one grid."""
    videos = [scene.video for scene in scenes]
    if len(set(videos)) < 2 or len({scene.prior.shape for scene in scenes}) != 1:
        problem = "the mean map of other videos needs two videos on one grid"
        raise DataError(problem, source="debiased AUC_obj", remedy="leave it out")
    maps = np.stack([scene.prior for scene in scenes]).astype(np.float64)
    total = maps.sum(0)
    result = []
    for index, video in enumerate(videos):
        own = [i for i, name in enumerate(videos) if name == video]
        result.append(maps[index] - (total - maps[own].sum(0)) / (len(videos) - len(own)))
    return result


def permutation_test(scenes: Sequence[Scene], *, seed: int = 1, draws: int = 999) -> Permutation:
    """Test mean AUC_obj against the null that a map is blind to its own clip: masks are permuted between videos."""
    videos = sorted({scene.video for scene in scenes})
    mask = {scene.video: scene for scene in scenes}
    table = np.array([[auc_obj(mask[video], scene.prior) or 0.0 for video in videos] for scene in scenes])
    own, rows = np.array([videos.index(scene.video) for scene in scenes]), np.arange(len(scenes))
    observed = float(table[rows, own].mean())
    rng = np.random.default_rng(seed)
    null = np.array([table[rows, rng.permutation(len(videos))[own]].mean() for _ in range(draws)])
    p = float((1 + (null >= observed - 1e-12).sum()) / (1 + draws))
    return Permutation(observed, float(null.mean()), float(null.std()), p, draws, len(scenes), len(videos))


def assess(scenes: Sequence[Scene], *, seed: int = 1, permuted: int = 128) -> Quality:
    """Measure the prior, raw and debiased, and each reference, with intervals over videos, and test it by permutation.

    Samples without a mover or without static objects are dropped. The permutation test takes the first `permuted`
    samples, as its table is samples × videos.
    """
    usable = with_objects(scenes)
    if not usable:
        return Quality({}, None, {})
    videos, raw = {scene.sample: scene.video for scene in usable}, [scene.prior for scene in usable]
    maps: dict[str, tuple[Sequence[Scene], Sequence[Map]]] = {"prior": (usable, raw)}
    alike = [scene for scene in usable if scene.prior.shape == usable[0].prior.shape]
    test = None
    if len({scene.video for scene in alike}) >= 2:
        maps["prior, debiased"] = (alike, debiased(alike))
        test = permutation_test(alike[:permuted], seed=seed)
    maps |= {name: (usable, [scene.references[name] for scene in usable]) for name in usable[0].references}

    def means(measure: Measure, span: tuple[float, float] | None = None) -> dict[str, Estimate]:
        found = {}
        for name, pair in maps.items():
            if values := values_of(measure, *pair):
                owners = [videos[key] for key in values]
                found[name] = mean_interval(list(values.values()), owners, seed=seed, span=span)
        return found

    hits, chances = values_of(peak, usable, raw), values_of(lambda scene, _: pointing_chance(scene), usable, raw)
    return Quality(
        means(auc_obj, (0, 1)),
        test,
        by_sample=values_of(auc_obj, usable, raw),
        pointing=means(pointing, (0, 1)),
        chance=float(np.mean(list(chances.values()))) if chances else 0.0,
        peaks={one.sample: (hits[one.sample], float(on_mover(one).mean())) for one in usable if one.sample in hits},
        track=means(track),
    )


def with_objects(scenes: Sequence[Scene]) -> list[Scene]:
    """Return those with both a mover and static objects."""
    return [scene for scene in scenes if scene.mover.sum() > 0 and scene.static.sum() > 0]


def centre_map(grid: Grid) -> Map:
    """Return minus each cell's squared distance from the middle of the frame (fractions of it), alike at all times."""
    top, bottom, left, right = grid.box
    y = top + (np.arange(grid.rows) + 0.5) * (bottom - top) / grid.rows - 0.5
    x = left + (np.arange(grid.cols) + 0.5) * (right - left) / grid.cols - 0.5
    plane = -(y[:, None] ** 2 + x[None, :] ** 2)
    return np.broadcast_to(plane, grid.shape).copy()
