"""How well a motion prior finds what moves, where the moving object's mask is known: AUC_obj and its references.

AUC_obj = P(a(mover) > a(static)) + P(=)/2 for a place drawn from the mover's area and one from the static objects' area: cells weigh
with the covered area, so no threshold enters and objects smaller than a cell count. Background is left out: any map of contrast finds
objects, the question is whether it finds the moving one. A position bias that all clips share is taken out by subtracting the mean map
of the *other* videos (`debiased`), and told by a permutation null: the same maps against other clips' masks.

Legend: F H W the prior's grid, n samples, v videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from components.core.errors import DataError
from components.core.records import Grid

Map = Float[np.ndarray, "F H W"]
_BLOCK = 4_000_000  # random draws held at once


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` values of `clusters` videos with its 95 % interval; no interval where there are fewer than two videos."""

    value: float
    low: float | None
    high: float | None
    n: int
    clusters: int


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
    """Observed mean AUC_obj against the same maps with other videos' masks; p is one-sided, (1 + #null ≥ observed) / (1 + draws)."""

    observed: float
    null_mean: float
    null_std: float
    p: float
    draws: int
    n: int
    clusters: int


@dataclass(frozen=True)
class Quality:
    """AUC_obj by name (prior, debiased, references), the permutation test, and each sample's raw value."""

    rows: dict[str, Estimate]
    permutation: Permutation | None
    by_sample: dict[str, float]


def weighted_auc(scores: Map, positive: Map, negative: Map) -> float | None:
    """P(score of a place drawn by `positive` > one drawn by `negative`), ties half; None where one of them has no area."""
    values, place = np.unique(scores.ravel(), return_inverse=True)
    plus = np.bincount(place, positive.ravel().astype(np.float64), len(values))
    minus = np.bincount(place, negative.ravel().astype(np.float64), len(values))
    total = plus.sum() * minus.sum()
    if total == 0:
        return None
    below = np.cumsum(minus) - minus
    return float((plus * (below + minus / 2)).sum() / total)


def cluster_interval(values: Sequence[float], clusters: Sequence[str], *, seed: int = 1, draws: int = 10_000) -> Estimate:
    """Mean of `values` and its 95 % percentile interval from a seeded bootstrap over clusters (videos).

    Raises:
        DataError: no values, or another number of clusters than of values.
    """
    if not values or len(values) != len(clusters):
        raise DataError(f"{len(values)} values of {len(clusters)} clusters", source="bootstrap", remedy="give one cluster a value")
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    sums, counts = np.bincount(place, np.asarray(values, np.float64)), np.bincount(place).astype(np.float64)
    mean, many = float(sums.sum() / counts.sum()), len(names)
    if many < 2:
        return Estimate(mean, None, None, len(values), many)
    rng, block = np.random.default_rng(seed), max(1, _BLOCK // many)
    drawn = []
    for start in range(0, draws, block):
        chosen = rng.integers(many, size=(min(block, draws - start), many))
        drawn.append(sums[chosen].sum(1) / counts[chosen].sum(1))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return Estimate(mean, float(low), float(high), len(values), many)


def debiased(scenes: Sequence[Scene]) -> list[Map]:
    """Each map minus the mean map of the other videos' samples; all of one grid shape.

    Raises:
        DataError: fewer than two videos, or maps of several shapes.
    """
    videos = [scene.video for scene in scenes]
    if len(set(videos)) < 2 or len({scene.prior.shape for scene in scenes}) != 1:
        raise DataError("the mean map of other videos needs two videos on one grid", source="debiased AUC_obj", remedy="leave it out")
    maps = np.stack([scene.prior for scene in scenes]).astype(np.float64)
    total = maps.sum(0)
    result = []
    for index, video in enumerate(videos):
        own = [i for i, name in enumerate(videos) if name == video]
        result.append(maps[index] - (total - maps[own].sum(0)) / (len(videos) - len(own)))
    return result


def permutation_test(scenes: Sequence[Scene], *, seed: int = 1, draws: int = 999) -> Permutation:
    """Mean AUC_obj over samples against the null that a map knows nothing of its own clip: masks are permuted between videos."""
    videos = sorted({scene.video for scene in scenes})
    mask = {scene.video: scene for scene in scenes}
    table = np.array([[weighted_auc(scene.prior, mask[v].mover, mask[v].static) or 0.0 for v in videos] for scene in scenes], np.float64)
    own, rows = np.array([videos.index(scene.video) for scene in scenes]), np.arange(len(scenes))
    observed = float(table[rows, own].mean())
    rng = np.random.default_rng(seed)
    null = np.array([table[rows, rng.permutation(len(videos))[own]].mean() for _ in range(draws)])
    p = float((1 + (null >= observed - 1e-12).sum()) / (1 + draws))
    return Permutation(observed, float(null.mean()), float(null.std()), p, draws, len(scenes), len(videos))


def assess(scenes: Sequence[Scene], *, seed: int = 1, permuted: int = 128) -> Quality:
    """AUC_obj of the prior, raw and debiased, of each reference, with intervals over videos, and the permutation test.

    Args:
        scenes: samples whose masks hold both a mover and static objects; others are dropped.
        seed: of the bootstrap and of the permutations.
        permuted: most samples of the permutation test (its table is samples × videos); the first ones are taken.
    """
    usable = [scene for scene in scenes if scene.mover.sum() > 0 and scene.static.sum() > 0]
    if not usable:
        return Quality({}, None, {})
    raw = [_auc(scene, scene.prior) for scene in usable]
    videos = [scene.video for scene in usable]
    rows = {"prior": cluster_interval(raw, videos, seed=seed)}
    alike = [scene for scene in usable if scene.prior.shape == usable[0].prior.shape]
    test = None
    if len({scene.video for scene in alike}) >= 2:
        values = [_auc(scene, map_FHW) for scene, map_FHW in zip(alike, debiased(alike), strict=True)]
        rows["prior, debiased"] = cluster_interval(values, [scene.video for scene in alike], seed=seed)
        test = permutation_test(alike[:permuted], seed=seed)
    for name in usable[0].references:
        rows[name] = cluster_interval([_auc(scene, scene.references[name]) for scene in usable], videos, seed=seed)
    return Quality(rows, test, {scene.sample: value for scene, value in zip(usable, raw, strict=True)})


def _auc(scene: Scene, map_FHW: Map) -> float:
    value = weighted_auc(map_FHW, scene.mover, scene.static)
    assert value is not None  # `assess` keeps scenes with both areas
    return value


def centre_map(grid: Grid) -> Map:
    """The centre prior: minus the squared distance of a cell from the middle of the frame (fractions of the frame), every time alike."""
    top, bottom, left, right = grid.box
    y = top + (np.arange(grid.rows) + 0.5) * (bottom - top) / grid.rows - 0.5
    x = left + (np.arange(grid.cols) + 0.5) * (right - left) / grid.cols - 0.5
    plane = -(y[:, None] ** 2 + x[None, :] ** 2)
    return np.broadcast_to(plane, grid.shape).copy()
