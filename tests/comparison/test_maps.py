"""Supplement Fig. 1 from prior sets: which stand in the grid, and that its pictures are the priors."""

import re

import numpy as np
import pytest
import torch

from components.comparison.maps import Setting, in_grid, maps, pictured
from components.core.records import smallest_by_hash
from components.pages.figures import heat
from components.pages.samples import Stored
from components.runtime.presets import PRESETS
from tests.comparison import world
from tests.runner import changed


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.set_num_threads(1)
    return world.build(tmp_path_factory.mktemp("maps"), questions=2)


@pytest.fixture(scope="module")
def priors(made):
    return {case.variant: one for case, one in made.cases["priors"][0]}


def test_the_grid_of_table_5(priors):
    """Rows of 2, 5 and 10 steps, columns of three shares; equal sets once; what differs in MHS stands alone."""
    _, sets = pictured(priors, 1)
    assert len(priors) == len(PRESETS["paper_table5"]) == 7
    assert len(sets) == 6
    grid, alone = in_grid(sets)
    assert sorted(grid) == [
        Setting(2, 0.5, 0.5),
        Setting(5, 0.25, 0.25),
        Setting(5, 0.5, 0.5),
        Setting(5, 0.75, 0.75),
        Setting(10, 0.5, 0.5),
    ]
    assert grid[Setting(5, 0.5, 0.5)].variants == ("5 steps", "50 % of heads and tokens")
    assert list(alone) == ["no MHS, no MTTI"]
    assert in_grid(sets[:2]) == ({}, {"no MHS, no MTTI": sets[0], "2 steps": sets[1]})
    assert in_grid(sets[:1]) == ({}, {"all variants": sets[0]})


def test_pictures_are_the_priors_on_one_scale_per_row(made, priors):
    shown, sets = pictured(priors, 1)
    (sample,) = shown
    assert sample == smallest_by_hash([line.sample.id for line in priors["2 steps"].lines], 1)[0]
    body = str(maps(Stored(made.store), shown, sets).body)
    images = re.findall(r'<image href="(.*?)"', body)
    assert body.count(">not run</text>") == 4
    assert re.findall(r"<b>(\d+ steps?)</b>", body) == ["2 steps", "5 steps", "10 steps"]
    heads = [f"{share}% of heads and words" for share in (25, 50, 75)]
    assert re.findall(r"<span>([^<]+)</span>", body)[: len(heads)] == heads
    grid, _ = in_grid(sets)

    def middle(setting):
        line = grid[setting].lines[sample]
        times = np.array(line.grid.times).mean(1)
        return Stored(made.store).prior(line)[:, abs(times - line.video.duration / 2).argmin()].mean(0)

    row = [middle(Setting(5, share, share)) for share in (0.25, 0.5, 0.75)]
    top = float(max(map_HW.max() for map_HW in row))
    # three frames above, then the rows from left to right, then the frame above and the map of the one that is alone
    assert len(images) == 3 + 5 + 2
    assert images[4:7] == [heat(map_HW, top) for map_HW in row]
    alone = middle(Setting(2, 0.5, 0.5))
    assert images[3] == heat(alone, float(alone.max()))


def test_samples_that_all_sets_have(priors):
    """A set of some of the samples: only these are pictured, the smallest hashes of theirs."""
    lines = list(priors["2 steps"].lines)
    part = changed(priors["2 steps"], lines=lines[1:])
    shown, sets = pictured({"whole": priors["5 steps"], "part": part}, 64)
    assert shown == smallest_by_hash([line.sample.id for line in lines[1:]], 64)
    assert all({*one.lines} == {*shown} for one in sets)
    nothing = changed(part, lines=[])
    assert pictured({"whole": priors["5 steps"], "none": nothing}, 64)[0] == []


def test_no_samples(made):
    assert maps(Stored(made.store), [], []).lead.startswith("No pictured samples")
