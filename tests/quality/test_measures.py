"""Every number against a naive reference: pair counting, loops over all permutations, closed forms."""

import itertools

import numpy as np
import pytest
from scipy import stats

from components.core.errors import DataError
from components.core.records import Grid
from components.quality.measures import (
    Scene,
    assess,
    centre_map,
    debiased,
    on_mover,
    peak,
    permutation_test,
    pointing,
    pointing_chance,
    track,
    weighted_auc,
)


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


def scene(index, video, rng, shape=(2, 3, 4)):
    mover, static = (rng.random(shape) * (rng.random(shape) < 0.5) + 1e-3 for _ in range(2))
    return Scene(str(index), video, rng.random(shape), mover, static, {"centre prior": rng.random(shape)})


# The pointing game ----------------------------------------------------------------------------------------------------


def naive_pointing(prior, mover):
    """Frame by frame and cell by cell; ties share the hit."""
    hits = []
    for f in range(len(mover)):
        cells = [(y, x) for y in range(mover.shape[1]) for x in range(mover.shape[2])]
        if any(mover[f, y, x] > 0.1 for y, x in cells):
            top = [(y, x) for y, x in cells if prior[f, y, x] == max(prior[f, v, u] for v, u in cells)]
            hits.append(sum(mover[f, y, x] > 0.1 for y, x in top) / len(top))
    return sum(hits) / len(hits)


@pytest.mark.parametrize("seed", range(8))
def test_pointing_counts_frames(seed):
    rng = np.random.default_rng(seed)
    mover = rng.random((4, 3, 5)) * (rng.random((4, 3, 5)) < 0.3)
    mover[seed % 4] = 0.05  # no cell of this frame lies on the mover
    prior = rng.integers(0, 4, (4, 3, 5)) / 3  # many ties
    one = Scene("a", "a", prior, mover, 0 * mover)
    assert pointing(one, prior) == pytest.approx(naive_pointing(prior, mover), abs=1e-12)
    top = np.argwhere(prior == prior.max())
    assert peak(one, prior) == pytest.approx(np.mean([mover[tuple(place)] > 0.1 for place in top]), abs=1e-12)


def test_a_flat_map_gets_chance_and_so_do_random_maps():
    rng = np.random.default_rng(9)
    mover = rng.random((3, 4, 6)) * (rng.random((3, 4, 6)) < 0.25)
    mover[1] = 0
    one = Scene("a", "a", mover, mover, 0 * mover)
    chance = pointing_chance(one)
    assert chance == pytest.approx(np.mean([(mover[f] > 0.1).mean() for f in (0, 2)]))
    rounded = np.full_like(mover, 0.1) + 1e-12 * rng.random(mover.shape)  # breaks no tie
    for flat in (np.ones_like(mover), rounded):
        assert pointing(one, flat) == pytest.approx(chance)
        assert peak(one, flat) == pytest.approx(on_mover(one).mean())
    drawn = [pointing(one, rng.random(mover.shape)) for _ in range(6000)]
    assert np.mean(drawn) == pytest.approx(chance, abs=4 * np.std(drawn) / np.sqrt(6000))


def test_the_peak_is_one_cell_of_all_frames():
    mover = np.zeros((2, 1, 4))
    mover[0, 0, 0] = mover[1, 0, 3] = 1
    one = Scene("a", "a", mover, mover, 0 * mover)
    # right in the first frame, wrong in the second, which is stronger
    prior = np.array([[[5.0, 1, 1, 1]], [[6.0, 1, 1, 2]]])
    assert (pointing(one, prior), peak(one, prior)) == (0.5, 0.0)
    other = prior[::-1].copy()
    assert (pointing(one, other), peak(one, other)) == (0.5, 1.0)
    assert (pointing(one, mover), peak(one, mover)) == (1.0, 1.0)
    nothing = Scene("b", "b", mover, 0 * mover, mover)
    assert pointing(nothing, prior) is peak(nothing, prior) is pointing_chance(nothing) is None


# The track ------------------------------------------------------------------------------------------------------------


def blob(path, shape=(15, 21), floor=0.0):
    """A round hill of the grid at each place of the path."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.stack([floor + np.exp(-((y - a) ** 2 + (x - b) ** 2) / 2) for a, b in path])


def test_track_is_pearsons_r_of_the_two_paths():
    rng = np.random.default_rng(10)
    for _ in range(5):
        mover, prior = (rng.random((6, 4, 5)) ** 4 for _ in range(2))
        mover *= rng.random(mover.shape) < 0.5
        coordinates = []
        for weights in (mover, prior - prior.min((1, 2))[:, None, None]):
            path = [
                [sum(w * place[k] for place, w in np.ndenumerate(frame)) / frame.sum() for k in (0, 1)]
                for frame in weights
            ]
            coordinates.append((np.array(path) - np.mean(path, axis=0)).ravel())
        assert track(Scene("a", "a", prior, mover, mover), prior) == pytest.approx(
            stats.pearsonr(*coordinates).statistic, abs=1e-9
        )


def test_track_of_known_paths():
    way = [(7.0, 4.0 + 2 * f) for f in range(6)]
    mover = (blob(way) > 0.4).astype(float)
    one = Scene("a", "a", mover, mover, 0 * mover)
    assert track(one, blob(way, floor=40.0)) > 0.999  # a floor everywhere does not matter
    assert track(one, blob([(y, 18 - x) for y, x in way])) < -0.999
    assert abs(track(one, blob([(3.0 + f, 10.0) for f in range(6)]))) < 0.05  # moves the other way
    static = blob([(3.0, 15.0)] * 6)
    assert track(one, static) == 0
    assert track(one, np.ones_like(mover)) == 0
    assert track(one, static + 0.3 * blob(way)) > 0.99  # a static object shifts the centre, not its way
    assert track(Scene("b", "b", mover, static, mover), mover) is None
    seen_once = mover * (np.arange(6) == 2)[:, None, None]
    assert track(Scene("c", "c", mover, seen_once, mover), mover) is None


def test_frames_without_the_mover_are_no_part_of_the_track():
    way = [(7.0, 4.0 + 2 * f) for f in range(6)]
    mover, prior = blob(way), blob([(2.0, 2.0), *way[1:]])  # the map is elsewhere while the mover is not there
    mover[0] = 0
    assert track(Scene("a", "a", prior, mover, mover), prior) > 0.999


# ----------------------------------------------------------------------------------------------------------------------


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
    """Movers always left, maps always bright there: raw AUC is 1, debiased and permuted it is chance."""
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
