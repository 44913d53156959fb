"""`python -m bench.prior [--full]`: whether the motion prior of a video model finds what moves.

On unseen synthetic clips with masks. Gated: trained weights against a random twin of the same architecture, all heads
and words, in AUC_obj, raw and debiased, with a permutation test and the balance of the clips (a centre prior must find
nothing). Beside them, without bounds: frame difference, pointing game, track, and what MHS and MTTI make of it.
`--full` adds ablations as paired differences. Writes `runs/bench-prior.json` (`runs/bench-prior-full.json`) and
`runs/bench-prior.png`; ends with code 1 where a bound does not hold. Plain AUC (mover against everything) and NSS are
left out: a random twin gets .82 of the one, and both follow contrast.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench import prior_configs as c
from bench.measure import prepare
from bench.prior_figure import draw
from bench.prior_heads import DRAWS, bottom_heads, head_maps, most_chosen, over_draws, random_halves
from bench.table import ROOT, Row, Test, finish
from components.pages.samples import Stored
from components.quality.measures import (
    Map,
    Measure,
    Scene,
    auc_obj,
    debiased,
    peak,
    permutation_test,
    pointing,
    pointing_chance,
    track,
    values_of,
    with_objects,
)
from components.quality.statistics import Estimate, mean_interval
from components.report.material import scenes
from components.report.quality import LEVEL

log = logging.getLogger("bench.prior")
VIDEOS = 64
_P = 0.009  # p is a multiple of .001: p < .01
_BALANCE = 0.03
_DEBIASED = "debiased AUC_obj: "
Values = Mapping[str, float]


class Sheet:
    """Rows about one model on the same samples: means and paired differences with intervals over videos."""

    def __init__(self, measured: Sequence[Scene], model: str) -> None:
        self.rows: list[Row] = []
        self._videos, self._model = {scene.sample: scene.video for scene in measured}, model

    def level(
        self, name: str, values: Values, detail: str = "", bound: float | None = None, test: Test = "value <="
    ) -> Estimate:
        """Add a row of the mean over samples."""
        videos = [self._videos[sample] for sample in values]
        return self._add(name, mean_interval(list(values.values()), videos), detail, bound, test)

    def difference(
        self, name: str, one: Values, other: Values, bound: float | None = None, test: Test = "value <="
    ) -> Estimate:
        """Add a row of the mean difference one − other over the same samples."""
        assert one.keys() == other.keys()
        changes = {sample: one[sample] - other[sample] for sample in one}
        return self.level(name, changes, "paired over videos", bound, test)

    def number(self, name: str, value: float, detail: str, bound: float | None = None) -> None:
        """Add a row without an interval, at most the bound."""
        many = len(self._videos)
        self._add(name, Estimate(value, None, None, many, len(set(self._videos.values()))), detail, bound, "value <=")

    def _add(self, name: str, e: Estimate, detail: str, bound: float | None, test: Test) -> Estimate:
        row = Row(
            name, e.value, bound, detail, test, low=e.low, high=e.high, n=e.n, clusters=e.clusters, model=self._model
        )
        self.rows.append(row)
        return e


@dataclass(frozen=True)
class Measured:
    """The maps of one configuration on the samples, raw and debiased, and their AUC_obj."""

    scenes: list[Scene]
    raw: list[Map]
    unbiased: list[Map]

    @classmethod
    def of(cls, measured: Sequence[Scene], maps: Sequence[Map]) -> Measured:
        """Of maps in the samples' order."""
        own = [replace(scene, prior=map_FHW) for scene, map_FHW in zip(measured, maps, strict=True)]
        return cls(own, list(maps), debiased(own))

    def values(self, measure: Measure) -> dict[str, float]:
        """Of the raw maps, by sample."""
        return values_of(measure, self.scenes, self.raw)

    @property
    def auc(self) -> dict[str, float]:
        """AUC_obj by sample."""
        return self.values(auc_obj)

    @property
    def debiased_auc(self) -> dict[str, float]:
        """AUC_obj of the debiased maps by sample."""
        return values_of(auc_obj, self.scenes, self.unbiased)


def measure(
    vdm: str,
    folder: Path,
    *,
    videos: int = VIDEOS,
    num_steps: int | None = None,
    full: bool = False,
    processes: int = 2,
    figure: Path | None = None,
) -> list[Row]:
    """Measure all rows, and draw the figure where a path is given.

    Args:
        vdm: the video model: a registry name or a folder.
        folder: an empty one to work in.
        videos: number of clips.
        num_steps: of inversion and reconstruction; None: the pipeline's default.
        full: ablations as well, around the pipeline's own number of steps.
        processes: captures that run side by side.
        figure: where the picture goes.
    """
    found = c.extract(vdm, [*c.GATED, *(c.ABLATIONS if full else ())], folder, videos, num_steps, processes)
    rows, maps = assessed(found)
    if figure is not None:
        draw(found[c.ALL], found[c.TWIN], {one.name: maps[one].auc for one in (c.ALL, c.TWIN)}, figure)
    return rows


def assessed(found: Mapping[c.Configuration, c.Extracted]) -> tuple[list[Row], dict[c.Configuration, Measured]]:
    """Return all rows about the priors of these configurations, and their maps on the clips' masks."""
    base = found[c.ALL]
    every = with_objects(scenes(Stored(base.store), base.priors.lines))
    samples = [scene.sample for scene in every]
    maps = {one: Measured.of(every, _maps(extracted, samples)) for one, extracted in found.items()}
    sheet = Sheet(every, base.priors.provenance["ddim_inversion"].models["vdm"].digest)
    gates(sheet, maps)
    beside(sheet, maps)
    heads(sheet, base, maps)
    selection(sheet, found[c.MHS], c.MHS.name)
    if c.TAU_MASK in found:
        ablations(sheet, maps)
        selection(sheet, found[c.TAU_MASK], c.TAU_MASK.name)
    return sheet.rows, maps


def _maps(found: c.Extracted, samples: Sequence[str]) -> list[Map]:
    lines, stored = {line.sample.id: line for line in found.priors.lines}, Stored(found.store)
    return [stored.prior(lines[sample]).mean(0) for sample in samples]


def gates(sheet: Sheet, maps: Mapping[c.Configuration, Measured]) -> None:
    """Add what must hold of a trained model, for all heads and words."""
    own, twin = maps[c.ALL], maps[c.TWIN]
    sheet.difference("difference in AUC_obj: trained − random twin", own.auc, twin.auc, 0.0, "low >")
    trained = sheet.level(_DEBIASED + c.ALL.name, own.debiased_auc, "minus the other videos' mean map", 0.5, "low >")
    sheet.level(
        _DEBIASED + c.TWIN.name, twin.debiased_auc, "below the trained model's lower end", trained.low, "high <"
    )
    test = permutation_test(own.scenes)
    other = f"other clips' masks {test.null_mean:.3f} ± {test.null_std:.3f}"
    detail = f"observed {test.observed:.3f}, {other}, {test.draws} draws"
    sheet.number("permutation p of AUC_obj", test.p, detail, _P)
    centre = [scene.references["centre prior"] for scene in own.scenes]
    balance = float(np.mean(list(values_of(auc_obj, own.scenes, centre).values())))
    sheet.number("|AUC_obj − .5| of the centre prior", abs(balance - 0.5), "balance of the clips", _BALANCE)


def beside(sheet: Sheet, maps: Mapping[c.Configuration, Measured]) -> None:
    """Add the same measures of references, MHS and MTTI, without bounds."""
    own = maps[c.ALL]
    for one in c.GATED:
        sheet.level(LEVEL + one.name, maps[one].auc)
    for name in own.scenes[0].references:
        sheet.level(LEVEL + name, values_of(auc_obj, own.scenes, [scene.references[name] for scene in own.scenes]))
    for one in (c.MHS, c.MTTI, c.DEFAULT):
        sheet.level(_DEBIASED + one.name, maps[one].debiased_auc)
        _differences(sheet, f"{one.name} − {c.ALL.name}", maps[one], own)
    chance = {scene.sample: value for scene in own.scenes if (value := pointing_chance(scene)) is not None}
    for name, score in {"pointing": pointing, "peak on the mover": peak, "track": track}.items():
        for one in (c.ALL, c.TWIN, c.DEFAULT):
            sheet.level(f"{name}: {one.name}", maps[one].values(score))
    sheet.level(f"debiased pointing: {c.ALL.name}", values_of(pointing, own.scenes, own.unbiased))
    sheet.level("pointing: chance", chance, "a cell drawn uniformly")


def _differences(sheet: Sheet, name: str, one: Measured, other: Measured) -> None:
    sheet.difference(f"difference in AUC_obj: {name}", one.auc, other.auc)
    sheet.difference(f"difference in debiased AUC_obj: {name}", one.debiased_auc, other.debiased_auc)


def selection(sheet: Sheet, found: c.Extracted, name: str) -> None:
    """Add whether a head selection follows the clip: how constant it is, and what is at a measure's maximum."""
    rows = found.priors.heads
    counts = ", ".join(f"{row.head}: {row.chosen}" for row in rows)
    detail = f"1 = the same heads in all {rows[0].samples} samples; chosen by head {counts}"
    sheet.number(f"{name}: constancy of the choice", most_chosen(rows), detail)
    for key, what in {"tcs": "TCS = F", "dsr": "DSR = 1", "both": "both"}.items():
        sheet.number(
            f"{name}: saturation, {what}", found.priors.saturation[key], "share of the chosen (sample, head) pairs"
        )


def ablations(sheet: Sheet, maps: Mapping[c.Configuration, Measured]) -> None:
    """Add other decisions of inversion, capture and selection."""
    for one in c.ABLATIONS:
        sheet.level(LEVEL + one.name, maps[one].auc)
        sheet.level(_DEBIASED + one.name, maps[one].debiased_auc)
    pairs = {
        "5 − 2 steps": (c.ALL, c.TWO_STEPS),
        "10 − 5 steps": (c.TEN_STEPS, c.ALL),
        "start inverted − noise": (c.ALL, c.NOISE),
        "memory on − off": (c.ALL, c.NO_MEMORY),
        "inversion_eval next − current": (c.ALL, c.CURRENT),
        "MHS, tau map − mask": (c.MHS, c.TAU_MASK),
        "MTTI − all words, MHS heads": (c.DEFAULT, c.MHS),
    }
    for name, (one, other) in pairs.items():
        _differences(sheet, name, maps[one], maps[other])


def heads(sheet: Sheet, base: c.Extracted, maps: Mapping[c.Configuration, Measured]) -> None:
    """Compare MHS's half of the heads with random halves and the bottom half, all words."""
    mhs, lines = maps[c.MHS], {line.sample.id: line for line in base.heads.lines}
    ordered = [lines[scene.sample] for scene in mhs.scenes]
    every, ratio = head_maps(base, ordered), base.priors.provenance["head_selection"].scalars["head_ratio"]
    bottom = Measured.of(
        mhs.scenes,
        [map_hFHW[chosen].mean(0) for map_hFHW, chosen in zip(every, bottom_heads(base, ordered, ratio), strict=True)],
    )
    draws = [Measured.of(mhs.scenes, list(every[:, half].mean(1))) for half in random_halves(every.shape[1], ratio)]
    raw = over_draws(auc_obj, mhs.scenes, [draw.raw for draw in draws])
    unbiased = over_draws(auc_obj, mhs.scenes, [draw.unbiased for draw in draws])
    sheet.level(f"{LEVEL}random half of the heads", raw, f"mean of {DRAWS} draws")
    sheet.level(f"{LEVEL}bottom half of the heads", bottom.auc, "lowest MHS scores")
    sheet.difference("difference in AUC_obj: MHS − random half", mhs.auc, raw)
    sheet.difference("difference in debiased AUC_obj: MHS − random half", mhs.debiased_auc, unbiased)
    _differences(sheet, "MHS − bottom half", mhs, bottom)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.prior", description="Does the motion prior find what moves?")
    parser.add_argument("--full", action="store_true", help="ablations as well")
    parser.add_argument("--vdm", default="scenes-cogvideox", help="video model: a registry name or a folder")
    parser.add_argument("--videos", type=int, default=VIDEOS, help="unseen clips; fewer than 48 show little")
    parser.add_argument("--num-steps", type=int, help="of inversion and reconstruction (the pipeline's default)")
    parser.add_argument("--processes", type=int, default=2, help="captures that run side by side")
    given = parser.parse_args(arguments)
    if given.full and given.num_steps:
        parser.error("--full compares numbers of steps itself: leave --num-steps out")
    prepare()
    os.environ["TQDM_DISABLE"] = "1"  # in the processes to come: two would draw their bars over each other
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-prior-") as folder:
        figure = ROOT / "runs" / "bench-prior.png"
        rows = measure(
            given.vdm,
            Path(folder),
            videos=given.videos,
            num_steps=given.num_steps,
            full=given.full,
            processes=given.processes,
            figure=figure,
        )
    log.info("%.0f s", time.monotonic() - start)
    heading = f"{given.vdm}, {given.videos} videos" + (f", {given.num_steps} steps" if given.num_steps else "")
    return finish(rows, "bench-prior-full" if given.full else "bench-prior", heading)


if __name__ == "__main__":
    raise SystemExit(main())
