"""Step 4 · MTTI: which words of the text carry motion, and the motion prior A_VDM that they make.

Algorithm 1, step 3: A_t2v = mean over the chosen heads; A_t2f[t, f] = its spatial mean; m_t = mean over frames, d_t =
mean |A_t2f[t, f+1] − A_t2f[t, f]|; MS(t) = m_t + d_t; the top share of the pieces by MS is kept and their rows are the
prior.
Everything is linear in A: maps in density relative to uniform (row mean 1 over all tokens of the video) give MS in that
unit. Confidence (supplement §4.1): √(concentration · dynamics).

Legend: h heads, T text pieces, K selected pieces, S = F·H·W vision tokens, frame-major.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from components.core.errors import DataError, ParameterError
from components.core.records import Confidence, Head, Piece, ScoredPiece
from components.head_selection.scores import share_count, z_score
from components.token_selection.settings import Unit


@dataclass(frozen=True)
class MotionScores:
    """m_t, d_t, MS(t) = m_t + d_t, and MS standardized over the sample's pieces."""

    mean_T: Float[Tensor, " T"]
    difference_T: Float[Tensor, " T"]
    score_T: Float[Tensor, " T"]
    standardized_T: Float[Tensor, " T"]


@dataclass(frozen=True)
class Prior:
    """A sample's motion prior: the selected rows, all pieces with scores, A_t2f of all pieces, and its confidence."""

    maps_TFHW: Float[Tensor, "K F H W"]
    pieces: list[ScoredPiece]
    per_frame_TF: Float[Tensor, "T F"]
    confidence: Confidence


def aggregate_heads(
    t2v: Float[Tensor, "h T S"] | Float[Tensor, "T S"], heads: Sequence[Head], grid: tuple[int, int, int]
) -> Float[Tensor, "T F H W"]:
    """A_t2v: mean over the chosen heads, on the grid (F, H, W); fp32 even where maps are stored in fp16.

    A map [T, S] is that mean already (`keep: selected`).

    Raises:
        DataError: no heads, or maps that do not fit the grid.
    """
    places = [head for head in heads if isinstance(head, int)]  # others are of single layers, kept as a mean alone
    there = heads and (t2v.ndim == 2 or len(places) == len(heads))
    if not there or t2v.shape[-1] != math.prod(grid):
        problem = f"{len(heads)} heads of a map {tuple(t2v.shape)} on the grid {grid}"
        raise DataError(problem, source="A_t2v", remedy="rerun attention_capture")
    mean_TS = t2v[places].float().mean(0) if t2v.ndim == 3 else t2v.float()
    return mean_TS.reshape(-1, *grid)


def per_frame(t2v_TFHW: Float[Tensor, "T F H W"]) -> Float[Tensor, "T F"]:
    """A_t2f: mean over the places of each frame."""
    return t2v_TFHW.double().mean((-2, -1))


def motion_scores(t2f_TF: Float[Tensor, "T F"]) -> MotionScores:
    """MS(t) = m_t + d_t (Algorithm 1, lines 20–22); with a single frame d_t = 0."""
    t2f_TF = t2f_TF.double()
    mean_T = t2f_TF.mean(-1)
    difference_T = t2f_TF.diff(dim=-1).abs().mean(-1) if t2f_TF.shape[-1] > 1 else torch.zeros_like(mean_T)
    score_T = mean_T + difference_T
    return MotionScores(mean_T, difference_T, score_T, z_score(score_T))


def select_tokens(score_T: Float[Tensor, " T"], token_ratio: float) -> list[int]:
    """Return the top ⌈token_ratio · T⌉ pieces by MS, at least one, in the text's order; ties: the earlier piece."""
    ranked = torch.sort(score_T, descending=True, stable=True).indices
    return sorted(ranked[: share_count(token_ratio, len(score_T), "token_ratio")].tolist())


def merge_words(
    t2v_TFHW: Float[Tensor, "T F H W"], pieces: Sequence[Piece]
) -> tuple[Float[Tensor, "words F H W"], list[Piece]]:
    """Join the pieces of a word (decision `unit: word`): its map is their mean, its span goes from first to last.

    A word is a run of pieces that touch in the text; punctuation at its ends stays apart, so that "jumps." and "jumps"
    are one word.
    """
    groups: list[list[int]] = []
    for run in _touching(pieces):
        worded = [i for i in run if any(character.isalnum() for character in pieces[i].token)]
        core = range(worded[0], worded[-1] + 1) if worded else range(0)
        groups += [[i] for i in run if i not in core and (not worded or i < core[0])]
        groups += [list(core)] if worded else []
        groups += [[i] for i in run if worded and i > core[-1]]
    merged = [
        pieces[group[0]].model_copy(
            update={"token": "".join(pieces[i].token for i in group), "end": pieces[group[-1]].end}
        )
        for group in groups
    ]
    return torch.stack([t2v_TFHW[group].mean(0) for group in groups]), merged


def _touching(pieces: Sequence[Piece]) -> list[list[int]]:
    runs: list[list[int]] = []
    for i, piece in enumerate(pieces):
        before = pieces[i - 1] if i else None
        if before is not None and before.field == piece.field and before.end == piece.start:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def concentration(maps_TFHW: Float[Tensor, "T F H W"], source: str = "prior") -> float:
    """1 − mean entropy of the rows relative to that of a uniform row: 0 for flat maps, 1 for a single place.

    Raises:
        DataError: a row is negative or sums to nothing.
    """
    rows_TS = maps_TFHW.double().flatten(1)
    total_T = rows_TS.sum(-1)
    if not bool(torch.isfinite(rows_TS).all()) or bool((rows_TS < 0).any()) or bool((total_T <= 0).any()):
        raise DataError(
            "a row of the map is negative, empty or not finite", source=source, remedy="rerun attention_capture"
        )
    if rows_TS.shape[-1] == 1:
        return 0.0
    entropy_T = torch.special.entr(rows_TS / total_T[:, None]).sum(-1)
    return min(1.0, max(0.0, 1 - float(entropy_T.mean()) / math.log(rows_TS.shape[-1])))


def confidence(
    maps_KFHW: Float[Tensor, "K F H W"], scores: MotionScores, selected: Sequence[int], source: str = "prior"
) -> Confidence:
    """√(concentration · dynamics) in [0, 1]; dynamics = mean of d_t / MS(t) over the selected pieces."""
    focus = concentration(maps_KFHW, source)
    chosen = list(selected)
    share_T = scores.difference_T[chosen] / scores.score_T[chosen].clamp_min(torch.finfo(torch.float64).tiny)
    dynamics = float(share_T.mean())
    return Confidence(concentration=focus, dynamics=dynamics, value=math.sqrt(focus * dynamics))


def motion_prior(
    t2v_TFHW: Float[Tensor, "T F H W"],
    pieces: Sequence[Piece],
    *,
    token_ratio: float = 0.5,
    unit: Unit = "token",
    mtti: bool = True,
    source: str = "sample",
) -> Prior:
    """Return the motion prior of one sample.

    Args:
        t2v_TFHW: A_t2v after head selection, one row a piece (pads, `</s>` and lone word-start pieces already dropped).
        pieces: the rows' pieces.
        token_ratio: share of the pieces that is kept.
        unit: rank the text encoder's pieces, or words (then `pieces` of the result are words).
        mtti: False keeps every piece and averages their rows into one (main text §5.4).
        source: the sample, for messages.

    Raises:
        DataError: pieces and rows differ in number, there are none, or a selected row holds no attention.
        ParameterError: a ratio outside [0, 1], or an unknown unit.
    """
    if len(pieces) != len(t2v_TFHW) or not pieces:
        raise DataError(
            f"{len(pieces)} pieces, {len(t2v_TFHW)} rows of A_t2v", source=source, remedy="rerun attention_capture"
        )
    if unit not in ("token", "word"):
        raise ParameterError(f"unit={unit!r}", source="params_token_selection", remedy="choose token or word")
    maps, named = merge_words(t2v_TFHW, pieces) if unit == "word" else (t2v_TFHW, list(pieces))
    t2f_TF = per_frame(maps)
    scores = motion_scores(t2f_TF)
    selected = select_tokens(scores.score_T, token_ratio) if mtti else list(range(len(named)))
    prior = maps[selected] if mtti else maps.mean(0, keepdim=True)
    kept, raw, standardized = set(selected), scores.score_T.tolist(), scores.standardized_T.tolist()
    scored = [
        ScoredPiece(**dict(piece), score=raw[i], standardized=standardized[i], selected=i in kept)
        for i, piece in enumerate(named)
    ]
    return Prior(prior, scored, t2f_TF, confidence(prior, scores, selected, source))
