"""The prior's bench: halves of the heads against a loop, the random twin, and gates that hold of nothing but motion."""

import re

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from bench import prior, prior_heads
from bench import prior_configs as c
from bench.prior import Measured, Sheet, assessed, gates
from components.core.records import HeadRow
from components.models.registry import resolve
from components.quality.measures import Scene
from components.store.entries import Store
from components.synthetic.vdm.network import TRAINING_SEEDS, make_denoiser, save_pipeline

VDM, VIDEOS = "tiny-cogvideox", 4


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return c.extract(VDM, c.GATED, tmp_path_factory.mktemp("bench"), VIDEOS, processes=1)


def naive_auc(scores, positive, negative):
    wins = total = 0.0
    for a, w in zip(scores.ravel(), positive.ravel(), strict=True):
        for b, v in zip(scores.ravel(), negative.ravel(), strict=True):
            if w and v:
                wins += w * v * (1.0 if a > b else 0.5 if a == b else 0.0)
                total += w * v
    return wins / total


def test_head_rows_against_a_loop(found):
    """Random, bottom and top half from the stored files, head by head and pair by pair."""
    rows, maps = assessed(found)
    by_name = {row.name: row for row in rows}
    base, rng = found[c.ALL], np.random.default_rng(prior_heads.DRAW_SEED)
    halves = [rng.choice(4, 2, replace=False) for _ in range(prior_heads.DRAWS)]
    lines = {line.sample.id: line for line in base.heads.lines}
    random, bottom, top = [], [], []
    for one in maps[c.ALL].scenes:
        line = lines[one.sample]
        t2v = load(base.store.read(line.maps))["t2v"].astype(np.float64)
        by_head = [sum(t2v[h, t] for t in range(t2v.shape[1])) / t2v.shape[1] for h in range(4)]
        kept = load(base.store.read(line.statistics))
        measures = [kept["on2"] / kept["off2"], kept["tcs_map"], kept["dsr_map"]]
        score = sum((m - m.mean()) / (m.std() or 1.0) for m in measures)
        order = np.argsort(score)

        def auc(chosen, by_head=by_head, one=one):
            return naive_auc((by_head[chosen[0]] + by_head[chosen[1]]) / 2, one.mover, one.static)

        random.append(np.mean([auc(half) for half in halves]))
        bottom.append(auc(order[:2]))
        top.append(auc(order[2:]))
    random, bottom, top = np.mean(random), np.mean(bottom), np.mean(top)
    assert by_name["AUC_obj: random half of the heads"].value == pytest.approx(random, abs=1e-4)
    assert by_name["AUC_obj: bottom half of the heads"].value == pytest.approx(bottom, abs=1e-4)
    assert by_name["AUC_obj: MHS"].value == pytest.approx(top, abs=1e-4)
    assert by_name["difference in AUC_obj: MHS − random half"].value == pytest.approx(top - random, abs=2e-4)
    assert by_name["difference in AUC_obj: MHS − bottom half"].value == pytest.approx(top - bottom, abs=2e-4)


def test_the_constancy_of_a_choice():
    def rows(*chosen):
        return [
            HeadRow(head=h, dfc=0, dfc_stderr=0, tcs=0, dsr=0, z=(0, 0, 0), score=0, chosen=n, samples=10)
            for h, n in enumerate(chosen)
        ]

    assert prior_heads.most_chosen(rows(0, 10, 10, 0)) == 1
    assert prior_heads.most_chosen(rows(5, 5, 5, 5)) == 0.5
    assert prior_heads.most_chosen(rows(8, 7, 4, 1)) == 0.75


def test_the_clips_are_nobody_elses():
    seeds = {c.SEED, c.TWIN_SEED, prior_heads.DRAW_SEED}
    written = {int(seed) for seed in re.findall(r"--seed (\d+)", (prior.ROOT / "Makefile").read_text())}
    assert len(written) == 2  # the smoke's
    assert not seeds & ({*TRAINING_SEEDS} | written)


def test_the_twin_has_the_same_shapes_and_other_weights(tmp_path):
    trained = resolve(VDM, Store(tmp_path.as_uri())).path
    twin = c.random_twin(trained, tmp_path / "twin")
    weights = sorted(path.relative_to(trained) for path in trained.rglob("*.safetensors"))
    for path in weights:
        one, other = load_file(trained / path), load_file(twin / path)
        assert [(name, value.shape) for name, value in one.items()] == [(k, value.shape) for k, value in other.items()]
        matrices = [name for name, value in one.items() if value.ndim > 1]
        same = [name for name in matrices if np.array_equal(one[name], other[name])]
        assert same == ([] if path.parts[0] in c.PARTS else matrices)
    for path in (path.relative_to(trained) for path in (trained / "tokenizer").rglob("*")):
        assert (twin / path).read_bytes() == (trained / path).read_bytes()


def test_the_twin_of_the_small_model_is_its_untrained_self(tmp_path):
    """Weight for weight what the trainer would begin with under this seed."""
    folder = save_pipeline(make_denoiser(0), tmp_path / "trained")
    twin = c.random_twin(folder, tmp_path / "twin")
    expected = make_denoiser(c.TWIN_SEED)
    for part in c.PARTS:
        (file,) = (twin / part).glob("*.safetensors")
        state, found = getattr(expected, part).state_dict(), load_file(file)
        for name, value in found.items():
            np.testing.assert_array_equal(value, state[name].numpy(), err_msg=name)
            assert value.dtype == np.float32
    one, other = (load_file(next((made / "vae").glob("*.safetensors"))) for made in (folder, twin))
    np.testing.assert_array_equal(one["encoder.conv_in.conv.weight"], other["encoder.conv_in.conv.weight"])


def made(count=48, seed=4):
    """Scenes of one mover and one static object in random places; maps that know the mover, and maps of noise."""
    rng, shape, measured = np.random.default_rng(seed), (3, 6, 6), []
    for index in range(count):
        mover, static = np.zeros(shape), np.zeros(shape)
        places = rng.permutation(36)[:2]
        mover.reshape(3, -1)[:, places[0]] = static.reshape(3, -1)[:, places[1]] = 1
        centre = -np.abs(np.mgrid[:6, :6] - 2.5).sum(0)[None].repeat(3, 0)
        measured.append(Scene(str(index), str(index), mover, mover, static, {"centre prior": centre}))
    noise = [rng.random(shape) for _ in measured]
    return measured, [0.6 * one.mover + b for one, b in zip(measured, noise, strict=True)], noise[::-1]


def held(measured, own, twin):
    sheet = Sheet(measured, "0" * 64)
    gates(sheet, {c.ALL: Measured.of(measured, own), c.TWIN: Measured.of(measured, twin)})
    return [row.holds for row in sheet.rows]


def test_gates_hold_of_motion_and_of_nothing_else():
    measured, knows, blind = made()
    assert held(measured, knows, blind) == [True] * 5
    assert held(measured, blind, knows) == [False, False, False, False, True]
    assert held(measured, knows, knows) == [False, True, False, True, True]  # a twin that knows as much


def test_a_shared_position_bias_does_not_pass():
    """Movers always left, maps always bright there: only the raw value is deceived."""
    measured, _, blind = made()
    left = np.arange(6) < 3
    bright = [(blind[k] > 0.8) * 1.0 for k in range(len(measured))]
    sided = [
        Scene(one.sample, one.video, one.prior, some * left, some * ~left, one.references)
        for one, some in zip(measured, bright, strict=True)
    ]
    _, other, noise = made(seed=5)
    own = [left + 1e-3 * b for b in noise]
    sheet = Sheet(sided, "0" * 64)
    gates(sheet, {c.ALL: Measured.of(sided, own), c.TWIN: Measured.of(sided, other)})
    difference, debiased, _, permutation, _ = sheet.rows
    assert difference.holds
    assert debiased.holds is False
    assert debiased.low < 0.5 < debiased.high
    assert permutation.value == 1


def test_gates_notice_clips_that_a_centre_prior_solves():
    measured, knows, blind = made()
    central = [one for one in measured if one.references["centre prior"][one.mover > 0].mean() > -3]
    own, twin = ([maps[int(one.sample)] for one in central] for maps in (knows, blind))
    assert held(central, own, twin)[4] is False
