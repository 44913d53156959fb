"""Every number against a naive reference: pair counting, loops over all permutations, closed forms."""

import itertools

import numpy as np
import pytest

from components.core.errors import DataError
from components.core.records import Grid
from components.report.quality import Scene, assess, centre_map, cluster_interval, debiased, permutation_test, weighted_auc


def naive_auc(scores, positive, negative):
    wins = total = 0.0
    for a, w in zip(scores.ravel(), positive.ravel(), strict=True):
        for b, v in zip(scores.ravel(), negative.ravel(), strict=True):
            wins += w * v * (1.0 if a > b else 0.5 if a == b else 0.0)
            total += w * v
    return wins / total


@pytest.mark.parametrize("seed", range(6))
def test_auc_counts_pairs(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (2, 4, 5)) / 4  # many ties
    positive, negative = (rng.random((2, 4, 5)) * (rng.random((2, 4, 5)) < 0.4) for _ in range(2))
    assert weighted_auc(scores, positive, negative) == pytest.approx(naive_auc(scores, positive, negative), abs=1e-12)


def test_auc_of_known_maps():
    mover, static = np.zeros((1, 1, 4)), np.zeros((1, 1, 4))
    mover[..., 0], static[..., 3] = 1, 1
    assert weighted_auc(np.arange(4.0)[None, None], mover, static) == 0
    assert weighted_auc(-np.arange(4.0)[None, None], mover, static) == 1
    assert weighted_auc(np.ones((1, 1, 4)), mover, static) == 0.5
    assert weighted_auc(np.ones((1, 1, 4)), mover, 0 * static) is None


def test_interval_is_the_normal_one_for_many_clusters():
    values = np.random.default_rng(0).normal(0.6, 0.2, 400)
    found = cluster_interval(values.tolist(), [str(i) for i in range(400)])
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_interval_resamples_videos_not_samples():
    values = np.random.default_rng(1).normal(0.6, 0.2, 60)
    names = [str(i) for i in range(60)]
    alone, fourfold = (
        cluster_interval(values.tolist(), names),
        cluster_interval(np.repeat(values, 4).tolist(), np.repeat(names, 4).tolist()),
    )
    assert (fourfold.low, fourfold.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    assert (fourfold.n, fourfold.clusters) == (240, 60)


def test_interval_of_unequal_clusters_is_a_ratio():
    values, names = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    found = cluster_interval(values, names, draws=4000)
    assert found.value == 0.75
    assert (found.low, found.high) == (0.0, 1.0)  # both videos drawn twice: {a a}, {b b}


def test_no_interval_from_one_video_and_no_mean_of_nothing():
    assert cluster_interval([1.0, 0.0], ["a", "a"]).low is None
    with pytest.raises(DataError):
        cluster_interval([], [])


def scene(index, video, rng, shape=(2, 3, 4)):
    mover, static = (rng.random(shape) * (rng.random(shape) < 0.5) + 1e-3 for _ in range(2))
    return Scene(str(index), video, rng.random(shape), mover, static, {"centre prior": rng.random(shape)})


def test_debiased_leaves_out_the_whole_video():
    rng = np.random.default_rng(2)
    scenes = [scene(i, video, rng) for i, video in enumerate("aabbcd")]
    for one, found in zip(scenes, debiased(scenes), strict=True):
        others = [other.prior for other in scenes if other.video != one.video]
        np.testing.assert_allclose(found, one.prior - sum(others) / len(others), atol=1e-12)
    with pytest.raises(DataError):
        debiased(scenes[:2])


def test_permutation_p_agrees_with_all_permutations():
    rng = np.random.default_rng(3)
    scenes = [scene(i, str(i), rng) for i in range(5)]
    found = permutation_test(scenes, draws=4000)
    table = [[naive_auc(a.prior, b.mover, b.static) for b in scenes] for a in scenes]
    null = [np.mean([table[i][j] for i, j in enumerate(order)]) for order in itertools.permutations(range(5))]
    observed = np.mean([table[i][i] for i in range(5)])
    assert found.observed == pytest.approx(observed)
    assert found.null_mean == pytest.approx(np.mean(null), abs=0.005)
    assert found.p == pytest.approx(np.mean([value >= observed - 1e-12 for value in null]), abs=0.03)


def test_a_shared_position_bias_is_taken_out():
    """Movers always left, maps always bright there: raw AUC is 1, the debiased value and the permutation test say nothing."""
    shape, scenes = (1, 4, 8), []
    rng = np.random.default_rng(4)
    for i in range(24):
        mover, static, prior = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        prior[..., :4] = 1
        mover[0, rng.integers(4), rng.integers(4)] = static[0, rng.integers(4), 4 + rng.integers(4)] = 1
        scenes.append(Scene(str(i), str(i), prior + 1e-3 * rng.random(shape), mover, static))
    found = assess(scenes)
    assert found.rows["prior"].value == 1
    assert found.rows["prior, debiased"].low < 0.5 < found.rows["prior, debiased"].high
    assert found.permutation.null_mean == 1
    assert found.permutation.p == 1


def test_scenes_without_both_areas_are_dropped():
    rng = np.random.default_rng(5)
    one = scene(0, "a", rng)
    still = Scene("1", "b", one.prior, 0 * one.mover, one.static, one.references)
    assert assess([still]).rows == {}
    assert assess([one, still]).rows["prior"].n == 1


def test_centre_map_by_hand():
    grid = Grid(times=[(0.0, 1.0), (1.0, 2.0)], rows=2, cols=2, box=(0.0, 1.0, 0.5, 1.0))  # the right half
    expected = [[-(0.25**2 + 0.125**2), -(0.25**2 + 0.375**2)]] * 2
    np.testing.assert_allclose(centre_map(grid), [expected, expected])


def test_on_real_clips(run):
    """A prior that leans to the mover is found; the frame difference finds it too; a centre prior and an ignorant prior do not."""
    import world

    from components.report.material import Material, scenes

    material = Material(run.store, run.priors, run.model, {}, {}, {}, {})
    rows = assess(scenes(material, material.order)).rows
    assert rows["prior"].low > 0.7
    assert rows["prior, debiased"].low > 0.7
    assert rows["frame difference"].value > 0.9
    assert rows["centre prior"].low < 0.5 < rows["centre prior"].high
    rng = np.random.default_rng(0)
    lines = sorted(material.order, key=lambda line: line.sample.id)
    blind = [Scene(s.sample, s.video, world.smooth_noise(rng, s.prior.shape), s.mover, s.static) for s in scenes(material, lines)]
    found = assess(blind)
    assert found.rows["prior"].low < 0.5 < found.rows["prior"].high
    assert found.permutation.p > 0.05
