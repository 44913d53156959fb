"""`python -m bench.align`: whether a VLM sees motion better when its attention is aligned with a map of motion.

A tiny Qwen2.5-VL learns "which object moves" from 300 clips in 400 updates: without alignment (plain), with the frame
difference, with another clip's frame difference (shuffled), and with the mover's own mask. Eight seeds; within a seed
the initialization, the clips, their order and the test clips are the same in all arms, so differences are paired.
`--full` adds the prior of a video model on two seeds or more, reported and not held to anything. Two processes of one
thread each; about ten minutes on two cores. Only the video model uses a GPU.

Prints a table, writes `runs/bench-align.json` and `.png` (`bench-align-full` with `--full`), ends with code 1 where a
bound does not hold.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from bench.align_data import (
    SIZE,
    TEST_COUNT,
    TEST_SEEDS,
    TRAIN_COUNT,
    TRAIN_SEEDS,
    VDM_STEPS,
    Scenes,
    frame_differences,
    make_scenes,
    shuffled,
    video_prior,
)
from bench.align_figure import draw_figure
from bench.align_model import STEPS, evaluate, make_model, object_auc, train
from bench.measure import prepare, workers
from bench.table import ROOT, Row, finish
from components.core.progress import track
from components.models.registry import resolve
from components.models.video import load_vdm
from components.sft.loss import effective_weight, prior_variance
from components.store.entries import Store
from components.synthetic.scenes import draw

log = logging.getLogger("bench")

SEEDS = range(200, 208)  # never changed: what was tried out was tried out on others
PLAIN, CHANGE, SHUFFLED, MASK, VIDEO = "plain", "frame difference", "shuffled", "mover mask", "video model"
WEIGHTS = {CHANGE: 3.0, SHUFFLED: 3.0, MASK: 1.0}  # λ; the video model's is 1 / Var(prior)
ARMS = (PLAIN, *WEIGHTS)
VIDEO_SEEDS = 2  # the first ones
PAIRS = ((CHANGE, PLAIN), (CHANGE, SHUFFLED), (MASK, PLAIN), (SHUFFLED, PLAIN), (VIDEO, PLAIN))
GATED, BOUND = PAIRS[:2], 0.10
CURVE, CURVE_COUNT = (50, 100, 150, 200, 300), 128
PROCESSES = 2


@dataclass(frozen=True)
class VideoModel:
    """A video model whose prior is an arm: its folder, and the steps of inversion and reconstruction."""

    path: Path
    num_steps: int = VDM_STEPS


@dataclass(frozen=True, eq=False)
class Run:
    """One training.

    Attributes:
        accuracy: on all test clips after the last update.
        curve: accuracy after some updates and at the end, on the first test clips.
        auc_question: AUC_obj on the test clips of the question's rows.
        auc_last: the same of the row that predicts the answer.
        map_Fhw: of the question's rows, on the first test clip.
        weight: λ.
        variance: of the prior's rows at mean 1.
        auc_prior: AUC_obj of the prior, on the training clips.
    """

    accuracy: float
    curve: dict[int, float]
    auc_question: float
    auc_last: float
    map_Fhw: Float[np.ndarray, "F h w"]
    weight: float = 0.0
    variance: float = 0.0
    auc_prior: float | None = None


@dataclass(frozen=True)
class SeedResult:
    """All arms of a seed.

    Attributes:
        seed: of initialization, clips and their order.
        runs: by arm.
        before_question, before_last: AUC_obj before any training, as in `Run`.
        aligned: aligned rows per sample.
        aligned_before: those that stand before the response.
    """

    seed: int
    runs: dict[str, Run]
    before_question: float
    before_last: float
    aligned: int
    aligned_before: int


def run_seed(seed: int, arms: Sequence[str], video: VideoModel | None = None, steps: int = STEPS) -> SeedResult:
    """Train every arm from the same start on the same clips."""
    clips, tests = make_scenes(TRAIN_SEEDS + seed, TRAIN_COUNT), make_scenes(TEST_SEEDS + seed, TEST_COUNT)
    start = evaluate(make_model(seed), tests)
    rows_R = clips.question_rows_R
    return SeedResult(
        seed=seed,
        runs={arm: run_arm(seed, arm, clips, tests, video, steps) for arm in arms},
        before_question=object_auc(start.question_NFhw, tests),
        before_last=object_auc(start.last_NFhw, tests),
        aligned=len(rows_R),
        aligned_before=int((rows_R < clips.answer_at).sum()),
    )


def run_arm(
    seed: int, arm: str, clips: Scenes, tests: Scenes, video: VideoModel | None = None, steps: int = STEPS
) -> Run:
    """One training with its evaluations."""
    prior_NFhw = prior_of(arm, clips, video)
    weight = variance = 0.0
    auc_prior = None
    if prior_NFhw is not None:
        variance, auc_prior = prior_variance(prior_NFhw), object_auc(prior_NFhw, clips)
        weight = WEIGHTS.get(arm) or effective_weight(1.0, "contrast", variance)
    vlm, curve = make_model(seed), dict[int, float]()
    for step, _ in enumerate(train(vlm, clips, seed, prior_NFhw, weight, steps), start=1):
        if step in CURVE:
            curve[step] = evaluate(vlm, tests, CURVE_COUNT).accuracy
    found = evaluate(vlm, tests)
    return Run(
        accuracy=found.accuracy,
        curve=curve | {steps: float(found.right_N[:CURVE_COUNT].float().mean())},
        auc_question=object_auc(found.question_NFhw, tests),
        auc_last=object_auc(found.last_NFhw, tests),
        map_Fhw=found.question_NFhw[0].numpy(),
        weight=weight,
        variance=variance,
        auc_prior=auc_prior,
    )


def prior_of(arm: str, clips: Scenes, video: VideoModel | None = None) -> Float[Tensor, "N F h w"] | None:
    """Return the maps that an arm aligns with; None: nothing is aligned."""
    if arm == VIDEO:
        assert video is not None
        model = load_vdm(video.path, "float32", "cuda" if torch.cuda.is_available() else "cpu")
        return torch.stack(
            [video_prior(model, clip, video.num_steps) for clip in track(clips.clips, "the video model's priors")]
        )
    maps: dict[str, Callable[[], Tensor]] = {
        CHANGE: lambda: frame_differences(clips),
        SHUFFLED: lambda: shuffled(frame_differences(clips)),
        MASK: lambda: clips.mover_NFhw,
    }
    return None if arm == PLAIN else maps[arm]()


# Running --------------------------------------------------------------------------------------------------------------


def run_all(
    seeds: Sequence[int], video: VideoModel | None = None, video_seeds: int = VIDEO_SEEDS, processes: int = PROCESSES
) -> list[SeedResult]:
    """Run all seeds, some at a time; the first `video_seeds` have the arm of the video model."""
    found = list[SeedResult]()
    start = time.monotonic()
    with workers(processes, _prepare) as pool:
        jobs = []
        for seed in seeds:
            arms = (*ARMS, VIDEO) if video is not None and seed in seeds[:video_seeds] else ARMS
            jobs.append(pool.submit(run_seed, seed, arms, video))
        for job in track(as_completed(jobs), "seeds", total=len(jobs)):
            found.append(result := job.result())
            accuracies = ", ".join(f"{arm} {run.accuracy:.3f}" for arm, run in result.runs.items())
            log.info("%4.0f s  seed %d: %s", time.monotonic() - start, result.seed, accuracies)
    return sorted(found, key=lambda result: result.seed)


def _prepare() -> None:
    prepare()
    torch.set_flush_denormal(True)  # a tenth of the time goes into numbers below 1e-38


# Table ----------------------------------------------------------------------------------------------------------------


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % t interval."""
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return float(np.mean(values)), float(low), float(high)


def rows(results: Sequence[SeedResult], digest: str | None = None) -> Iterator[Row]:
    """Return the table: accuracies, paired differences, strength of the alignment, and where the model looks.

    Args:
        results: of all seeds.
        digest: of the video model.
    """
    runs = by_arm(results)
    for arm, found in runs.items():
        values = [run.accuracy for run in found.values()]
        detail = f"{TEST_COUNT} test clips per seed; seeds from {min(values):.3f} to {max(values):.3f}"
        yield _row(f"accuracy, {arm}", values, detail, digest if arm == VIDEO else None)
    for one, other in PAIRS:
        if one in runs:
            values = [run.accuracy - runs[other][seed].accuracy for seed, run in runs[one].items()]
            detail = f"paired by seed; higher in {sum(value > 0 for value in values)} of {len(values)}"
            row = _row(f"accuracy, {one} − {other}", values, detail, digest if one == VIDEO else None)
            yield replace(row, bound=BOUND, test="low >") if (one, other) in GATED else row
    for arm, found in runs.items():
        if arm != PLAIN:
            yield _strength(arm, list(found.values()), digest if arm == VIDEO else None)
    for where in ("question", "last"):
        name = {"question": "the question's rows", "last": "the row that predicts the answer"}[where]
        yield _row(
            f"AUC_obj of {name}, before",
            [getattr(result, f"before_{where}") for result in results],
            "test clips; shared by all arms",
        )
        for arm, found in runs.items():
            values = [getattr(run, f"auc_{where}") for run in found.values()]
            yield _row(f"AUC_obj of {name}, after, {arm}", values, "test clips", digest if arm == VIDEO else None)
    ahead = [result.aligned_before for result in results]
    yield Row(
        "aligned rows before the response",
        float(np.mean(ahead)),
        None,
        f"of {results[0].aligned} per sample, in every aligned arm",
    )


def by_arm(results: Sequence[SeedResult]) -> dict[str, dict[int, Run]]:
    """Sort the runs by arm and seed."""
    arms = dict.fromkeys(arm for result in results for arm in result.runs)
    return {arm: {result.seed: result.runs[arm] for result in results if arm in result.runs} for arm in arms}


def _row(name: str, values: Sequence[float], detail: str, model: str | None = None) -> Row:
    mean, low, high = t_interval(values)
    return Row(
        name, mean, None, detail, low=low, high=high, n=len(values) * TEST_COUNT, clusters=len(values), model=model
    )


def _strength(arm: str, found: Sequence[Run], model: str | None) -> Row:
    """Return λ · Var(prior): how strongly the arm is aligned."""
    weight, variance = (float(np.mean([getattr(run, name) for run in found])) for name in ("weight", "variance"))
    auc = np.mean([run.auc_prior for run in found if run.auc_prior is not None])
    detail = f"λ = {weight:.3g}, Var = {variance:.3g}; AUC_obj of the prior on training clips {auc:.3f}"
    value = float(np.mean([run.weight * run.variance for run in found]))
    return Row(
        f"λ · Var(prior), {arm}", value, None, detail, n=len(found) * TRAIN_COUNT, clusters=len(found), model=model
    )


def picture(results: Sequence[SeedResult], target: Path) -> Path:
    """Draw the curves of the arms that all seeds have, and the first seed's first test clip with its maps."""
    curves = {
        arm: {step: t_interval([run.curve[step] for run in runs.values()]) for step in next(iter(runs.values())).curve}
        for arm, runs in by_arm(results).items()
        if len(runs) == len(results)
    }
    first = results[0]
    scene = make_scenes(TEST_SEEDS + first.seed, 1)
    _, mover_nHW, _ = draw(scene.clips[0].scene, SIZE)
    maps = {"plain": first.runs[PLAIN].map_Fhw, "aligned": first.runs[CHANGE].map_Fhw}
    return draw_figure(curves, scene.frames_NnHW3[0].numpy(), mover_nHW > 0, maps, target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print, write, draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.align", description="does attention alignment help?")
    parser.add_argument("--full", action="store_true", help="add the prior of a video model")
    parser.add_argument(
        "--vdm", default="scenes-cogvideox", help="the video model of --full: a registry name or a folder (%(default)s)"
    )
    parser.add_argument(
        "--num-steps", type=int, default=VDM_STEPS, help="of its inversion and reconstruction (%(default)s)"
    )
    parser.add_argument("--video-seeds", type=int, default=VIDEO_SEEDS, help="seeds with its arm (%(default)s)")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="seeds that run side by side (%(default)s)")
    chosen = parser.parse_args(arguments)
    prepare()
    vdm = video = None
    name, heading = "bench-align", "alignment"
    if chosen.full:
        with tempfile.TemporaryDirectory() as folder:
            vdm = resolve(chosen.vdm, Store(f"file://{folder}"))
        video = VideoModel(vdm.path, chosen.num_steps)
        name, heading = "bench-align-full", f"alignment; {chosen.vdm} at {chosen.num_steps} steps"
    results = run_all(SEEDS, video, chosen.video_seeds, chosen.processes)
    picture(results, ROOT / "runs" / f"{name}.png")
    return finish(list(rows(results, vdm.id.digest if vdm else None)), name, heading)


if __name__ == "__main__":
    raise SystemExit(main())
