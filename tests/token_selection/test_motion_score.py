"""MTTI against Algorithm 1 written out with loops, and closed forms of the confidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from components.core.errors import DataError, ParameterError
from components.core.records import Piece
from components.token_selection.motion_score import (
    aggregate_heads,
    concentration,
    merge_words,
    motion_prior,
    motion_scores,
    per_frame,
    select_tokens,
)


def random_maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pieces_of(text: str, spans: list[tuple[int, int]]) -> list[Piece]:
    return [Piece(index=i, token=text[a:b], field="response", start=a, end=b) for i, (a, b) in enumerate(spans)]


def letters(count: int) -> list[Piece]:
    return [Piece(index=i, token=chr(97 + i), field="response", start=2 * i, end=2 * i + 1) for i in range(count)]


def naive_scores(maps: np.ndarray) -> list[float]:
    """Algorithm 1, lines 18–22."""
    scores = []
    for row in maps:
        t2f = [frame.sum() / frame.size for frame in row]
        m = sum(t2f) / len(t2f)
        d = sum(abs(t2f[f + 1] - t2f[f]) for f in range(len(t2f) - 1)) / (len(t2f) - 1)
        scores.append(m + d)
    return scores


def test_scores_equal_algorithm_1() -> None:
    maps = random_maps(7, 5, 3, 4)
    found = motion_scores(per_frame(maps))
    expected = naive_scores(maps.double().numpy())
    assert np.allclose(found.score_T.numpy(), expected, rtol=1e-12)
    assert np.allclose(found.standardized_T.numpy(), (np.array(expected) - np.mean(expected)) / np.std(expected))
    assert torch.equal(found.score_T, found.mean_T + found.difference_T)


def test_a_word_that_comes_and_goes_beats_a_steady_one() -> None:
    steady, moving = torch.full((6,), 1.0), torch.tensor([0.0, 2.0, 0.0, 2.0, 0.0, 2.0])
    found = motion_scores(torch.stack([steady, moving]))
    assert found.mean_T.tolist() == [1.0, 1.0]
    assert found.difference_T.tolist() == [0.0, 2.0]
    assert select_tokens(found.score_T, 0.5) == [1]


def test_single_frame_has_no_difference() -> None:
    assert motion_scores(torch.tensor([[0.3], [0.5]])).difference_T.tolist() == [0.0, 0.0]


def test_heads_are_averaged_in_fp32() -> None:
    maps = random_maps(4, 3, 2 * 3 * 5).half()
    found = aggregate_heads(maps, [0, 2, 3], (2, 3, 5))
    expected = maps.double().numpy()[[0, 2, 3]].mean(0)
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy().reshape(3, -1), expected, atol=1e-6)
    # frame-major: (f·H + y)·W + x
    assert found[1, 1, 2, 3] == pytest.approx(expected[1, (1 * 3 + 2) * 5 + 3], abs=1e-6)
    with pytest.raises(DataError, match="grid"):
        aggregate_heads(maps, [0], (2, 3, 4))
    with pytest.raises(DataError, match="0 heads"):
        aggregate_heads(maps, [], (2, 3, 5))


def test_selection_counts_and_ties() -> None:
    assert select_tokens(torch.tensor([1.0, 2.0, 2.0, 2.0]), 0.5) == [1, 2]
    assert select_tokens(torch.zeros(5), 0.5) == [0, 1, 2]
    assert select_tokens(torch.tensor([1.0, 2.0]), 0.0) == [1]
    assert select_tokens(torch.arange(10).float(), 0.7) == [3, 4, 5, 6, 7, 8, 9]
    with pytest.raises(ParameterError, match="token_ratio"):
        select_tokens(torch.zeros(3), -0.1)


def test_prior_holds_the_selected_rows_in_the_texts_order() -> None:
    maps = random_maps(6, 4, 2, 3)
    found = motion_prior(maps, letters(6))
    best = sorted(np.argsort(naive_scores(maps.double().numpy()))[-3:])
    assert [piece.index for piece in found.pieces if piece.selected] == best
    assert torch.equal(found.maps_TFHW, maps[best])
    assert found.per_frame_TF.shape == (6, 4)
    assert [piece.score for piece in found.pieces] == pytest.approx(naive_scores(maps.double().numpy()))


def test_mtti_off_averages_all_rows_into_one() -> None:
    maps = random_maps(5, 4, 2, 3)
    found = motion_prior(maps, letters(5), mtti=False)
    assert torch.equal(found.maps_TFHW, maps.mean(0, keepdim=True))
    assert all(piece.selected for piece in found.pieces)


def test_selection_does_not_depend_on_the_unit_of_attention() -> None:
    maps = random_maps(9, 4, 2, 3)
    pick = lambda found: [piece.selected for piece in found.pieces]
    assert pick(motion_prior(maps, letters(9))) == pick(motion_prior(maps / maps[0].numel(), letters(9)))


TEXT = "She jumps (un-easily), don't stop."
STARTS, ENDS = (0, 4, 8, 10, 11, 13, 14, 20, 23, 26, 27, 29, 33), (3, 8, 9, 11, 13, 14, 20, 22, 26, 27, 28, 33, 34)
SPANS = list(zip(STARTS, ENDS, strict=True))


def test_words_merge_and_punctuation_at_their_ends_stays_apart() -> None:
    pieces, maps = pieces_of(TEXT, SPANS), random_maps(len(SPANS), 3, 2, 2)
    merged, words = merge_words(maps, pieces)
    assert [word.token for word in words] == ["She", "jumps", "(", "un-easily", "),", "don't", "stop", "."]
    assert all(TEXT[word.start : word.end] == word.token for word in words)
    assert torch.equal(merged[1], (maps[1] + maps[2]) / 2)
    assert torch.equal(merged[5], maps[8:11].mean(0))
    assert torch.equal(merged[7], maps[12])


def test_words_do_not_cross_fields() -> None:
    first, second = pieces_of("ab", [(0, 1), (1, 2)])
    apart = [first, second.model_copy(update={"field": "question"})]
    assert [len(merge_words(random_maps(2, 2, 1, 1), pieces)[1]) for pieces in ([first, second], apart)] == [1, 2]


def test_unit_word_ranks_words() -> None:
    pieces = pieces_of("jumps a", [(0, 4), (4, 5), (6, 7)])
    maps = torch.stack([torch.full((3, 2, 2), value) for value in (1.0, 5.0, 2.0)])
    by_token, by_word = (motion_prior(maps, pieces, token_ratio=0.3, unit=unit) for unit in ("token", "word"))
    assert [p.token for p in by_token.pieces if p.selected] == ["s"]
    assert [p.token for p in by_word.pieces if p.selected] == ["jumps"]
    assert torch.equal(by_word.maps_TFHW, torch.full((1, 3, 2, 2), 3.0))


def test_confidence_closed_forms() -> None:
    flat, point = torch.ones(1, 2, 3, 4), torch.zeros(1, 2, 3, 4)
    point[0, 0, 1, 1] = 24.0
    assert concentration(flat) == pytest.approx(0, abs=1e-12)
    assert concentration(point) == 1
    half = torch.zeros(1, 2, 3, 4)
    half[0, 0] = 2.0  # uniform over half of 24 cells: entropy log 12
    assert concentration(half) == pytest.approx(1 - math.log(12) / math.log(24))
    found = motion_prior(half, letters(1)).confidence
    assert found.dynamics == pytest.approx(2 / 3)  # A_t2f = (2, 0): m = 1, d = 2
    assert found.value == pytest.approx(math.sqrt((1 - math.log(12) / math.log(24)) * 2 / 3))
    assert motion_prior(flat, letters(1)).confidence.value == 0


def test_confidence_is_a_mean_over_the_selected_pieces_only() -> None:
    steady, blinking = torch.ones(3, 2, 2), torch.tensor([0.0, 3.0, 0.0])[:, None, None].expand(3, 2, 2)
    found = motion_prior(torch.stack([steady, blinking]), letters(2), token_ratio=0.5)
    assert [piece.selected for piece in found.pieces] == [False, True]
    assert found.confidence.dynamics == pytest.approx(3 / 4)


def test_refusals() -> None:
    for rows, count, match in [(3, 2, "2 pieces, 3 rows"), (0, 0, "0 pieces")]:
        with pytest.raises(DataError, match=match):
            motion_prior(random_maps(rows, 2, 2, 2), letters(count))
    with pytest.raises(DataError, match="sample x"):
        motion_prior(torch.zeros(2, 2, 2, 2), letters(2), source="sample x")
