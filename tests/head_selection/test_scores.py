"""MHS against a naive reference on full S × S maps: every row and run is walked by hand, in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from components.core.errors import DataError, ParameterError
from components.head_selection import scores

F, H, W = 6, 5, 7
P, S = H * W, F * H * W
Array = np.ndarray[Any, Any]


def place(index: int) -> tuple[int, int, int]:
    return index // P, index % P // W, index % W


def build(rule: Any) -> Array:
    """A full map whose entry (i, j) is proportional to rule(f, y, x, f', y', x'); rows sum to 1."""
    full = np.array([[float(rule(*place(i), *place(j))) for j in range(S)] for i in range(S)])
    return full / full.sum(1, keepdims=True)


def maps() -> dict[str, Array]:
    same = lambda f, y, x, g, v, u: (y, x) == (v, u)
    diagonal, uniform = build(same), np.full((S, S), 1 / S)
    rng = np.random.default_rng(3)
    return {
        "diagonal": diagonal,
        "half": 0.5 * diagonal + 0.5 * uniform,
        "neighbours": build(lambda f, y, x, g, v, u: (y, x) == (v, u) and abs(f - g) <= 1),
        "identity": np.eye(S),
        "uniform": uniform,
        "local": build(lambda f, y, x, g, v, u: f == g and abs(y - v) <= 1 and abs(x - u) <= 1),
        "random": (lambda e: e / e.sum(1, keepdims=True))(np.exp(rng.normal(size=(S, S)))),
    }


MAPS = maps()


def diagonal_blocks(full: Array) -> Array:
    """[P, F, F] by index arithmetic of its own."""
    return np.array([[[full[f * P + p, g * P + p] for g in range(F)] for f in range(F)] for p in range(P)])


def oracle(full: Array, tau_kind: str, include_self: bool) -> tuple[float, float, float]:
    """DFC, TCS, DSR of one map as the main text defines them, by loops over the full map."""
    off, on_entries = 0.0, []
    for i, j in np.ndindex(S, S):
        if i % P == j % P and (include_self or i != j):
            on_entries.append(full[i, j])
        else:
            off += full[i, j] ** 2
    on = sum(value**2 for value in on_entries)
    tau = full.mean() if tau_kind == "map" else float(np.mean(on_entries))
    continuity = 0.0
    for p in range(P):
        lengths = []
        for f in range(F):
            run = 0
            for g in range(F + 1):
                if g < F and full[f * P + p, g * P + p] > tau * (1 + 1e-6):
                    run += 1
                elif run:
                    lengths.append(run)
                    run = 0
        continuity += (sum(lengths) / len(lengths) if lengths else 0.0) / P
    focus = 0.0 if on == 0 else min(on / off, 1e6) if off else 1e6
    return focus, continuity, sum(value >= tau * (1 - 1e-6) for value in on_entries) / len(on_entries)


def statistics_of(full: Array, dtype: torch.dtype = torch.float64) -> scores.HeadStatistics:
    blocks = diagonal_blocks(full)
    off2 = torch.tensor([max((full**2).sum() - (blocks**2).sum(), 0.0)])
    diag, tau = torch.tensor(blocks, dtype=dtype)[None], torch.tensor([full.mean()])
    return scores.head_statistics(diag, tau, off2, torch.zeros(1))


def stack(parts: list[scores.HeadStatistics]) -> scores.HeadStatistics:
    tensors = [part.tensors() for part in parts]
    joined = {name: torch.cat([t[name] for t in tensors]) for name in tensors[0] if name != "frames"}
    return scores.HeadStatistics.from_tensors({**joined, "frames": torch.tensor([F])})


ALL = stack([statistics_of(full) for full in MAPS.values()])


@pytest.mark.parametrize("tau", ["map", "mask"])
@pytest.mark.parametrize("include_self", [True, False])
def test_measures_equal_the_naive_reference(tau: Any, include_self: bool) -> None:
    found = scores.choose(ALL, tau=tau, include_self=include_self)
    for head, (name, full) in enumerate(MAPS.items()):
        # off2 of the pure diagonal is 0 up to rounding, which the cap takes
        expected = oracle(full, tau, include_self)
        assert float(found.dfc[head]) == pytest.approx(expected[0], rel=1e-6), name
        assert float(found.tcs[head]) == pytest.approx(expected[1], rel=1e-12), name
        assert float(found.dsr[head]) == pytest.approx(expected[2], rel=1e-12), name


def test_hand_computed_maps() -> None:
    """Closed forms: uniform DFC = F/(S−F), diagonal self-out DFC = F−1, neighbours' runs (2+3+3+3+3+2)/6."""
    names = list(MAPS)
    self_in, self_out = scores.choose(ALL), scores.choose(ALL, include_self=False)
    at = names.index
    assert self_in.dfc[at("uniform")] == pytest.approx(F / (S - F))
    assert self_in.dfc[at("diagonal")] == pytest.approx(1e6)
    assert self_out.dfc[at("diagonal")] == pytest.approx(F - 1)
    assert self_out.dfc[at("identity")] == 0
    assert self_in.tcs[at("diagonal")] == F
    assert self_in.tcs[at("neighbours")] == pytest.approx(16 / 6)
    assert self_in.dsr[at("neighbours")] == pytest.approx(16 / 36)
    assert self_out.dsr[at("neighbours")] == pytest.approx(10 / 30)
    assert (self_in.tcs[at("uniform")], self_in.dsr[at("uniform")]) == (0, 1)
    assert (self_in.tcs[at("local")], self_in.dsr[at("local")]) == (1, pytest.approx(1 / 6))
    order = [float(self_in.score[at(name)]) for name in ("diagonal", "half", "neighbours", "uniform", "local")]
    assert order == sorted(order, reverse=True)


def test_runs_are_pooled_over_the_rows_of_a_place() -> None:
    """One row with runs 1, 1, 1 and one with a run of 5: pooled 8/4 = 2, the mean of the rows' means would be 3."""
    block = torch.zeros(1, 1, 5, 5)
    block[0, 0, 0] = torch.tensor([1.0, 0, 1, 0, 1])
    block[0, 0, 1] = 1.0
    assert float(scores.tcs(block, torch.tensor([0.5]))) == 2.0
    two_places = torch.cat([block, torch.zeros_like(block)], dim=1)
    assert float(scores.tcs(two_places, torch.tensor([0.5]))) == 1.0  # a place without runs counts 0
    # a run does not continue into the next row
    block = torch.zeros(1, 1, 3, 3)
    block[0, 0, 0, 2] = block[0, 0, 1, 0] = 1.0
    assert float(scores.tcs(block, torch.tensor([0.5]))) == 1.0


def test_single_frame_pair() -> None:
    blocks = torch.tensor([[[[0.2, 0.3], [0.1, 0.4]]]])
    found = scores.head_statistics(blocks, torch.tensor([0.25]), torch.tensor([0.5]), torch.tensor([0.0]))
    expected = {"on2": 0.04 + 0.09 + 0.01 + 0.16, "on2_noself": 0.09 + 0.01, "tau_mask": 0.25, "tau_mask_noself": 0.2}
    expected |= {"tcs_map": 1.0, "dsr_map": 0.5, "dsr_map_noself": 0.5}
    assert {name: float(getattr(found, name)) for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("error", [-3e-7, 3e-7])
def test_rounding_flips_nothing_on_a_uniform_map(error: float) -> None:
    """A map that is uniform up to fp32 accumulation has TCS 0 and DSR 1, on whichever side of τ its entries land."""
    blocks = torch.full((1, P, F, F), 1 / S, dtype=torch.float64) * (1 + error)
    tau = torch.tensor([1 / S], dtype=torch.float64)
    assert float(scores.tcs(blocks, tau)) == 0
    assert float(scores.dsr(blocks, tau)) == 1
    beyond = blocks * (1 + math.copysign(2e-6, error))
    assert float(scores.tcs(beyond, tau)) == (F if error > 0 else 0)
    assert float(scores.dsr(beyond, tau)) == (1 if error > 0 else 0)


def test_fp32_accumulators_give_the_same_discrete_measures() -> None:
    for name, full in MAPS.items():
        wide, narrow = statistics_of(full), statistics_of(full, torch.float32)
        assert torch.equal(wide.tcs_map, narrow.tcs_map), name
        assert torch.equal(wide.dsr_map, narrow.dsr_map), name


def test_text_mass_scales_out() -> None:
    """30 % of every row's attention on text changes no measure: the map is scaled, and τ with it."""
    whole, scaled = statistics_of(MAPS["half"]), statistics_of(0.7 * MAPS["half"])
    for name in ("tcs_map", "dsr_map", "tcs_mask", "dsr_mask"):
        assert torch.equal(getattr(whole, name), getattr(scaled, name))
    assert torch.allclose(scores.dfc(whole.on2, whole.off2), scores.dfc(scaled.on2, scaled.off2))


def test_dfc_edges_and_its_error() -> None:
    on2, off2 = torch.tensor([0.0, 0.0, 2.0, 2.0, 2.0]), torch.tensor([0.0, 1.0, 0.0, 1e-9, 4.0])
    assert scores.dfc(on2, off2).tolist() == [0, 0, 1e6, 1e6, 0.5]
    error = torch.full((5,), 0.1, dtype=torch.float64)
    assert scores.dfc_stderr(on2, off2, error).tolist() == [0, 0, 0, 0, pytest.approx(2 * 0.1 / 16)]


def test_error_bar_covers_the_sampling_of_rows() -> None:
    """off2 estimated from R rows: DFC's first-order error bar has the spread of DFC over many draws."""
    full = MAPS["random"]
    on = np.array([[i % P == j % P for j in range(S)] for i in range(S)])
    energy = np.where(on, 0, full**2).sum(1)
    on2, rows = float(full[on] @ full[on]), 60
    rng = np.random.default_rng(0)
    estimates, errors = [], []
    for _ in range(2000):
        sample = energy[rng.choice(S, rows, replace=False)]
        off2, error = S * sample.mean(), S * sample.std(ddof=1) / math.sqrt(rows) * math.sqrt(1 - rows / S)
        one = torch.tensor([on2])
        estimates.append(float(scores.dfc(one, torch.tensor([off2]))))
        errors.append(float(scores.dfc_stderr(one, torch.tensor([off2]), torch.tensor([error]))))
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.1)
    truth = on2 / energy.sum()
    covered = np.mean(np.abs(np.array(estimates) - truth) < 1.96 * np.array(errors))
    assert 0.9 < covered < 0.98


def test_z_score() -> None:
    values = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    reference = (values.numpy() - values.numpy().mean()) / values.numpy().std()
    assert np.allclose(scores.z_score(values).numpy(), reference)
    assert scores.z_score(torch.full((7,), 0.1)).tolist() == [0.0] * 7
    assert scores.z_score(torch.zeros(3)).tolist() == [0.0] * 3


KEPT = [(10, 0.7, 7), (10, 0.25, 3), (5, 0.5, 3), (4, 0.0, 1), (3, 1.0, 3), (100, 0.29, 29), (25, 0.28, 7)]


def test_which_heads_are_kept() -> None:
    for count, ratio, kept in KEPT:
        assert len(scores.select_heads(torch.arange(count).float(), ratio)) == kept
    assert scores.select_heads(torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0]), 0.6) == [1, 2, 3]
    assert scores.select_heads(torch.zeros(6), 0.5) == [0, 1, 2]
    with pytest.raises(ParameterError, match="head_ratio"):
        scores.select_heads(torch.zeros(6), 1.5)


def test_score_is_the_sum_of_z_scores() -> None:
    found = scores.choose(ALL)
    columns = [oracle(full, "map", True) for full in MAPS.values()]
    expected = sum((np.array(c) - np.mean(c)) / np.std(c) for c in zip(*columns, strict=True))
    assert np.allclose(found.score.numpy(), expected, rtol=1e-6)
    assert found.heads == sorted(np.argsort(-expected, kind="stable")[:4].tolist())
    assert scores.choose(ALL, mhs=False).heads == list(range(len(MAPS)))


def varied(seed: int) -> scores.HeadStatistics:
    gen = torch.Generator().manual_seed(seed)
    blocks = torch.rand(5, 4, 3, 3, generator=gen) * torch.rand(5, 1, 1, 1, generator=gen)
    off2 = torch.rand(5, generator=gen) + 1
    return scores.head_statistics(blocks, blocks.mean((1, 2, 3)) * 0.8, off2, torch.full((5,), 0.1))


def test_dataset_scope_averages_the_sums_and_ignores_the_order() -> None:
    samples = [varied(seed) for seed in range(6)]
    own = list(scores.choose_all(samples))
    assert len({tuple(choice.heads) for choice in own}) > 1  # otherwise this test could not fail
    shared = list(scores.choose_all(samples, scope="dataset"))
    mean = sum(scores.choose(stats).score for stats in samples) / 6
    assert {tuple(choice.heads) for choice in shared} == {tuple(scores.select_heads(mean, 0.5))}
    assert [c.heads for c in scores.choose_all(samples[::-1], scope="dataset")] == [c.heads for c in shared]
    assert [c.heads for c in scores.choose_all(samples, scope="dataset", mhs=False)] == [list(range(5))] * 6


def test_head_table() -> None:
    samples = [varied(seed) for seed in range(4)]
    choices = list(scores.choose_all(samples))
    rows = scores.head_table(choices).rows()
    assert [row.head for row in rows] == list(range(5))
    for row in rows:
        values = [float(choice.dfc[row.head]) for choice in choices]
        errors = [float(choice.dfc_stderr[row.head]) for choice in choices]
        assert row.dfc == pytest.approx(np.mean(values))
        assert row.dfc_stderr == pytest.approx(math.sqrt(sum(e * e for e in errors)) / 4)
        assert row.chosen == sum(row.head in choice.heads for choice in choices)
        assert sum(row.z) == pytest.approx(row.score)
    assert sum(row.chosen for row in rows) == 4 * 3


def test_saturation() -> None:
    names = list(MAPS)
    chosen = scores.choose(ALL, head_ratio=3 / 7)
    assert [names[head] for head in chosen.heads] == ["diagonal", "half", "neighbours"]
    assert scores.head_table([chosen]).saturation() == pytest.approx(dict.fromkeys(("tcs", "dsr", "both"), 2 / 3))
    everyone = scores.choose(ALL, mhs=False)  # the uniform head has DSR 1, TCS 0
    assert scores.head_table([everyone]).saturation() == pytest.approx({"tcs": 2 / 7, "dsr": 3 / 7, "both": 2 / 7})
    assert scores.head_table([chosen, everyone]).saturation()["both"] == pytest.approx(4 / 10)


def test_statistics_survive_writing() -> None:
    back = scores.HeadStatistics.from_tensors(ALL.tensors())
    assert back.frames == F
    assert torch.equal(scores.choose(back).score, scores.choose(ALL).score)
    with pytest.raises(DataError, match="tau_map"):
        scores.HeadStatistics.from_tensors({k: v for k, v in ALL.tensors().items() if k != "tau_map"})


def test_refusals() -> None:
    one, two_frames = torch.ones(1), torch.ones(1, 4, 2, 2)
    for diag, off2, match in [
        (torch.ones(1, 4, 1, 1), one, "at least 2"),
        (two_frames * math.nan, one, "not finite"),
        (two_frames, -one, "off-M energy"),
    ]:
        with pytest.raises(DataError, match=match):
            scores.head_statistics(diag, one, off2, one)
    with pytest.raises(DataError, match="no samples"):
        list(scores.choose_all([]))
    fewer = scores.HeadStatistics(**{n: v[:-1] if torch.is_tensor(v) else v for n, v in vars(ALL).items()})
    with pytest.raises(DataError, match="several numbers of heads"):
        list(scores.choose_all([ALL, fewer]))
    with pytest.raises(DataError, match="several numbers of heads"):
        list(scores.choose_all([ALL, replace(ALL, layers=1)]))
