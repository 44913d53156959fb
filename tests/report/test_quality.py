"""The measures of a prior on the finished run's real clips."""

import numpy as np
import world

from components.quality.measures import Scene, assess
from components.report.material import Material, scenes


def test_on_real_clips(run):
    """Of a prior that leans to the mover, frame difference, centre prior and noise, the first two find the mover."""
    material = Material(run.store, run.priors, run.model, {}, {}, {}, {})
    rows = assess(scenes(material, material.order)).rows
    assert rows["prior"].low > 0.7
    assert rows["prior, debiased"].low > 0.7
    assert rows["frame difference"].value > 0.9
    assert rows["centre prior"].low < 0.5 < rows["centre prior"].high
    found = assess(scenes(material, material.order))
    assert found.pointing["prior, debiased"].low > 0.5 > found.chance > 0.02
    assert found.track["frame difference"].low > 0.8
    assert found.track["centre prior"].value == 0
    assert list(found.peaks) == [line.sample.id for line in material.order]
    assert np.mean([hit for hit, _ in found.peaks.values()]) > 0.5
    rng = np.random.default_rng(0)
    lines = sorted(material.order, key=lambda line: line.sample.id)
    blind = [
        Scene(s.sample, s.video, world.smooth_noise(rng, s.prior.shape), s.mover, s.static)
        for s in scenes(material, lines)
    ]
    found = assess(blind)
    assert found.pointing["prior"].low < found.chance + 0.05
    assert found.track["prior"].low < 0 < found.track["prior"].high
    assert found.rows["prior"].low < 0.5 < found.rows["prior"].high
    assert found.permutation.p > 0.05
