"""Other halves of the heads than the one MHS chooses: random ones and the bottom one, from the stored maps.

Legend: h heads, F H W the prior's grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.prior_configs import Extracted
from components.core.artifacts import HeadLine
from components.core.records import HeadRow
from components.head_selection.scores import HeadStatistics, choose, select_heads, share_count
from components.quality.measures import Measure, Scene, values_of
from components.store.tensors import unpack

DRAWS, DRAW_SEED = 20, 9_100_003


def head_maps(found: Extracted, lines: Sequence[HeadLine]) -> np.ndarray:
    """Return each sample's map by head, mean over all words: [samples, h, F, H, W]."""
    maps = []
    for line in lines:
        t2v_hTS = unpack(found.store.read(line.maps))["t2v"].float().numpy()
        maps.append(t2v_hTS.mean(1).reshape(-1, *line.grid.shape))
    return np.stack(maps)


def bottom_heads(found: Extracted, lines: Sequence[HeadLine], ratio: float) -> list[list[int]]:
    """Return each sample's heads with the lowest MHS scores, as many as MHS keeps at the top."""
    statistics = [HeadStatistics.from_tensors(unpack(found.store.read(line.statistics))) for line in lines]
    return [select_heads(-choose(one).score, ratio) for one in statistics]


def random_halves(heads: int, ratio: float) -> list[list[int]]:
    """Draw as many heads as MHS keeps, seeded; a draw holds for all samples."""
    rng, count = np.random.default_rng(DRAW_SEED), share_count(ratio, heads)
    return [sorted(rng.choice(heads, count, replace=False).tolist()) for _ in range(DRAWS)]


def over_draws(measure: Measure, scenes: Sequence[Scene], draws: Sequence[Sequence[np.ndarray]]) -> dict[str, float]:
    """Return each sample's mean of a measure over the draws' maps."""
    found = [values_of(measure, scenes, maps) for maps in draws]
    return {sample: float(np.mean([values[sample] for values in found])) for sample in found[0]}


def most_chosen(rows: Sequence[HeadRow]) -> float:
    """Return how constant a selection is: 1 where the same heads are chosen in all samples.

    The mean share of samples in which one of the most often chosen heads was chosen.
    """
    total, samples = sum(row.chosen for row in rows), rows[0].samples
    count = round(total / samples)
    often = sorted((row.chosen for row in rows), reverse=True)[:count]
    return sum(often) / (count * samples)
