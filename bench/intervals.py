"""Do the intervals and tests of a benchmark hold what they promise? Simulated benchmarks whose items share videos.

An item is right with its type's chance. With probability √ρ it takes the draw that it shares with its video, so two
items of one type and video correlate by ρ. `python -m bench.intervals` prints coverage and levels over sizes, chances
and numbers of videos (README.md of this folder).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from components.quality.statistics import Estimate, accuracy, difference

SIZES = {
    "FAVOR-Bench": lambda rng, many: 1 + rng.poisson(3.6, many),
    "Video-MME": lambda rng, many: np.full(many, 3),
    "MotionBench": lambda rng, many: 1 + rng.choice(5, many, p=[0.6, 0.2, 0.1, 0.06, 0.04]),
}
_SHIFTS = (0.1, -0.1, 0.05, -0.05, 0.02, -0.02)  # of the types' chances around the given one


@dataclass(frozen=True)
class Plan:
    """What is simulated: items per video as in a benchmark, chances, and how items and models agree.

    `within`, `within_after`: correlation of a video's items under each model; `same`: share of items for which the
    second model has the first one's luck; `gain`: what it has more of a chance.
    """

    sizes: str
    videos: int
    chance: float = 0.5
    within: float = 0.3
    within_after: float = 0.3
    gain: float = 0.0
    same: float = 0.5
    shares: tuple[float, ...] = (0.3, 0.2, 0.2, 0.15, 0.1, 0.05)

    @property
    def chances(self) -> list[float]:
        """Return each type's chance under the first model; a lone type has the given one."""
        most = min(1.0, 4 * self.chance * (1 - self.chance)) if len(self.shares) > 1 else 0.0
        return [min(0.997, max(0.003, self.chance + most * shift)) for shift in _SHIFTS[: len(self.shares)]]


class Simulated(NamedTuple):
    """One simulated benchmark answered by two models."""

    before: list[bool]
    after: list[bool]
    videos: list[str]
    types: list[str]
    chances: list[float]
    overall: float


def simulate(plan: Plan, seed: int) -> Simulated:
    """Return a benchmark answered by two models; MotionBench gives each video one type."""
    rng = np.random.default_rng(seed)
    video_n = np.repeat(np.arange(plan.videos), SIZES[plan.sizes](rng, plan.videos))
    by_video = plan.sizes == "MotionBench"
    kinds = rng.choice(len(plan.shares), plan.videos if by_video else len(video_n), p=plan.shares)
    type_n = kinds[video_n] if by_video else kinds
    first, second = (_luck(rng, video_n) for _ in range(2))
    chance_n = np.array(plan.chances)[type_n]
    same = rng.random(len(video_n)) < plan.same
    before = _mixed(first, plan.within) < chance_n
    after = np.where(same, _mixed(first, plan.within_after), _mixed(second, plan.within_after)) < chance_n + plan.gain
    overall = float(np.dot(plan.shares, plan.chances))
    return Simulated(
        before.tolist(),
        after.tolist(),
        video_n.astype(str).tolist(),
        type_n.astype(str).tolist(),
        plan.chances,
        overall,
    )


def _luck(rng: np.random.Generator, video_n: np.ndarray) -> np.ndarray:
    """Return each item's own draw, its video's, and which of the two it takes, in [0, 1)."""
    own, choice = rng.random(len(video_n)), rng.random(len(video_n))
    return np.stack([own, rng.random(video_n.max() + 1)[video_n], choice])


def _mixed(luck: np.ndarray, within: float) -> np.ndarray:
    return np.where(luck[2] < np.sqrt(within), luck[1], luck[0])


class Held(NamedTuple):
    """Shares of the simulations: intervals that hold the truth (Overall, Average, smallest type), p ≤ .05."""

    covered: list[float]
    changed: list[float]
    rejected: list[float]


def held(plan: Plan, rounds: int) -> Held:
    """Return what `rounds` simulations of a plan show."""
    covered, changed, rejected = [], [], []
    for one in (simulate(plan, seed) for seed in range(rounds)):
        share = accuracy(one.before, one.videos, one.types)
        change = difference(one.before, one.after, one.videos, one.types, draws=300)
        last = max(share.by_type)
        average = float(np.mean([one.chances[int(kind)] for kind in share.by_type]))
        truths = (one.overall, average, one.chances[int(last)])
        covered.append(
            [_holds(e, t) for e, t in zip((share.overall, share.average, share.by_type[last]), truths, strict=True)]
        )
        changes = (change.overall, change.average, change.by_type[last])
        changed.append([_holds(e, plan.gain) for e in changes])
        rejected.append([e.p is not None and e.p <= 0.05 for e in changes])
    return Held(*(np.mean(found, axis=0).tolist() for found in (covered, changed, rejected)))


def _holds(e: Estimate, truth: float) -> bool:
    return e.low is None or e.high is None or e.low <= truth <= e.high


def main(rounds: int = 2000) -> None:
    """Print the table."""
    print("items as in   videos   ρ      chance   accuracy .95: all avg type   difference .95   p ≤ .05 without one")
    for sizes, videos in itertools.product(SIZES, (8, 15, 40, 200)):
        for (within, after), chance in itertools.product(((0, 0), (0.3, 0.3), (0.9, 0.9), (0.9, 0)), (0.02, 0.5, 0.9)):
            plan = Plan(sizes, videos, chance, within, after)
            found = ["  ".join(f"{value:.3f}" for value in values) for values in held(plan, rounds)]
            print(
                f"{sizes:12}  {videos:5}   {within:.1f} {after:.1f}   {chance:.2f}    {'    '.join(found)}", flush=True
            )


if __name__ == "__main__":
    main()
