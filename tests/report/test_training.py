"""Section 8 of the report: where the VLM looks before and after, against a count over all pairs of cells."""

import re

import numpy as np
import pytest
from safetensors.numpy import load

from components.media.grids import pool_mask


def counted(run, line):
    """AUC_obj of one VLM map, over all pairs: how often a place of the mover has more than one of a static object."""
    stored, mask = load(run.store.read(line.vlm_map)), load(run.store.read(line.mask))
    mover, objects = mask["mover"] > 0, mask["objects"] > 0
    areas = [
        np.asarray(pool_mask(area.astype(np.uint8), line.video.times, line.grid)) for area in (mover, objects & ~mover)
    ]
    valid = stored["valid"].astype(bool)
    values = stored["map"][stored["covered"].astype(bool)].mean(0)[valid]
    plus, minus = (area[valid] for area in areas)
    pairs = plus[:, None] * minus[None, :]
    higher = (values[:, None] > values[None, :]) + 0.5 * (values[:, None] == values[None, :])
    return float((pairs * higher).sum() / pairs.sum())


def test_auc_of_the_vlm_before_and_after(run, page):
    before = {line.sample.id: line for line in run.model.lines}
    lines = [line for line in run.after.lines if line.mask is not None and line.sample.id in before]
    wanted = [
        np.mean([counted(run, line) for line in side]) for side in ([before[line.sample.id] for line in lines], lines)
    ]
    said = re.search(r"VLM(?:'|&#39;)s own map, mover against static objects: ([\d.]+) → ([\d.]+)", page)
    assert tuple(map(float, said.groups())) == pytest.approx(wanted, abs=6e-4)
    assert wanted[1] > wanted[0] + 0.05  # the made-up tuned maps are nearer to priors that know the mover
    assert f"n = {len(lines)} pictured samples" in page
