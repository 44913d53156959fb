"""Step 3 · MHS: how motion-sensitive each head of the video model is, and which heads are chosen.

Main text eqs. 11–13 on A = A_v2v of one head: DFC = Σ_M A² / Σ_{not M} A² with M = pairs of the same place (all frame
pairs), TCS = mean length of the runs A > τ in a place's F × F block, DSR = share of M with A ≥ τ; each z-scored over
the heads, summed, the top share kept. Comparisons with τ have a relative tolerance, as a uniform map would flip between
TCS = 0 and F by rounding.

Legend: h heads (of all layers one after the other, where these are apart), P places (H·W), F frames, S = F·H·W vision
tokens, n samples. `_noself`: pairs f = f′ left out of M.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from components.core.errors import DataError, ParameterError
from components.core.records import Head, HeadRow
from components.head_selection.settings import Scope, Tau

_TOLERANCE = 1e-6  # relative, of comparisons with τ
_DFC_CAP = 1e6  # a pure diagonal has DFC = ∞, which would flatten everyone else's z-score
_SLACK = 1e-9  # 0.07 · 100 is a little more than 7 in floating point

PerHead = Float[Tensor, " h"]


# The three measures ---------------------------------------------------------------------------------------------------


def dfc(on2: PerHead, off2: PerHead) -> PerHead:
    """Diagonal focus (eq. 11): energy on M over energy off M, at most 1e6, 0 where there is none on M."""
    ratio = on2.double() / torch.maximum(off2.double(), on2.double() / _DFC_CAP)
    return torch.where(on2 > 0, ratio, 0.0)


def dfc_stderr(on2: PerHead, off2: PerHead, off2_stderr: PerHead) -> PerHead:
    """Return DFC's standard error from that of its sampled denominator (first order: DFC · σ/off2); 0 at DFC's cap."""
    capped = off2.double() <= on2.double() / _DFC_CAP
    error = on2.double() * off2_stderr.double() / torch.where(capped, 1.0, off2.double()) ** 2
    return torch.where(capped | (on2 <= 0), 0.0, error)


def tcs(diag_hPFF: Float[Tensor, "h P F F"], tau_h: PerHead) -> PerHead:
    """Temporal continuity (eq. 12), in frames: mean over places of the mean length of the maximal runs A > τ.

    The runs of all rows of a place's block are pooled; a place without runs counts 0. Between 0 and F.
    """
    above = diag_hPFF.double() > (tau_h.double() * (1 + _TOLERANCE))[:, None, None, None]
    begins = above.clone()
    begins[..., 1:] &= ~above[..., :-1]
    runs_hP, cells_hP = begins.sum((-2, -1)), above.sum((-2, -1))
    return (cells_hP.double() / runs_hP.clamp_min(1)).mean(-1)


def dsr(diag_hPFF: Float[Tensor, "h P F F"], tau_h: PerHead, *, include_self: bool = True) -> PerHead:
    """Diagonal saturation (eq. 13): share of M's entries with A ≥ τ; `include_self=False` leaves f = f′ out of M."""
    reached = diag_hPFF.double() >= (tau_h.double() * (1 - _TOLERANCE))[:, None, None, None]
    if include_self:
        return reached.double().mean((1, 2, 3))
    return reached[:, :, _pairs(diag_hPFF.shape[-1], include_self=False)].double().mean((1, 2))


def _pairs(frames: int, *, include_self: bool) -> Tensor:
    """Which entries of a place's F × F block belong to M."""
    ones = torch.ones(frames, frames, dtype=torch.bool)
    return ones if include_self else ones ^ torch.eye(frames, dtype=torch.bool)


# What is stored of a sample -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadStatistics:
    """What decisions of step 3 need of one sample: numbers per head (float64), and the number of frames F.

    `layers`: how many layers the heads are of, equally many of each; None: they are means over the layers.
    """

    on2: PerHead
    on2_noself: PerHead
    off2: PerHead
    off2_stderr: PerHead
    tau_map: PerHead
    tau_mask: PerHead
    tau_mask_noself: PerHead
    tcs_map: PerHead
    tcs_mask: PerHead
    tcs_mask_noself: PerHead
    dsr_map: PerHead
    dsr_map_noself: PerHead
    dsr_mask: PerHead
    dsr_mask_noself: PerHead
    frames: int
    layers: int | None = None

    def tensors(self) -> dict[str, Tensor]:
        """By field name, ready to be written; `frames` and `layers` as one integer, the latter where it is one."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: torch.tensor([x]) if isinstance(x, int) else x for name, x in named.items() if x is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], source: str = "head statistics") -> HeadStatistics:
        """Invert `tensors`; names that are not fields are left alone.

        Raises:
            DataError: a field is missing.
        """
        names = [field.name for field in fields(cls) if field.name != "layers"]
        if missing := [name for name in names if name not in tensors]:
            raise DataError(f"no {', '.join(missing)}", source=source, remedy="rerun attention_capture")
        values = {name: tensors[name].double() for name in names if name != "frames"}
        layers = int(tensors["layers"].item()) if "layers" in tensors else None
        return cls(**values, frames=int(tensors["frames"].item()), layers=layers)


def head_statistics(
    diag_hPFF: Float[Tensor, "h P F F"],
    tau_h: PerHead,
    off2_h: PerHead,
    off2_stderr_h: PerHead,
    source: str = "attention maps",
) -> HeadStatistics:
    """Reduce a sample's averaged maps to head statistics.

    Args:
        diag_hPFF: same-place entries of A_v2v, [head, place, row's frame, column's frame].
        tau_h: mean of A_v2v over all S × S entries.
        off2_h: Σ A² over all pairs of different places (estimated from sampled rows, or exact).
        off2_stderr_h: its standard error, 0 where exact.
        source: what the maps are of, for messages.

    Raises:
        DataError: fewer than two frames, or numbers that no attention map can have.
    """
    frames = diag_hPFF.shape[-1]
    if frames < 2:
        raise DataError(
            f"{frames} frame in the grid: motion needs at least 2", source=source, remedy="give more frames"
        )
    for name, value in {
        "same-place entries": diag_hPFF,
        "τ": tau_h,
        "off-M energy": off2_h,
        "its standard error": off2_stderr_h,
    }.items():
        if not bool((torch.isfinite(value) & (value >= 0)).all()):
            raise DataError(
                f"{name} negative or not finite",
                source=source,
                remedy="check the model's dtype, run attention_capture again",
            )
    diag_hPFF, tau_map = diag_hPFF.double(), tau_h.double()
    off_self = _pairs(frames, include_self=False).to(diag_hPFF.device)
    moved_hPm = diag_hPFF[:, :, off_self]
    tau_mask, tau_noself = diag_hPFF.mean((1, 2, 3)), moved_hPm.mean((1, 2))
    return HeadStatistics(
        on2=diag_hPFF.square().sum((1, 2, 3)),
        on2_noself=moved_hPm.square().sum((1, 2)),
        off2=off2_h.double(),
        off2_stderr=off2_stderr_h.double(),
        tau_map=tau_map,
        tau_mask=tau_mask,
        tau_mask_noself=tau_noself,
        tcs_map=tcs(diag_hPFF, tau_map),
        tcs_mask=tcs(diag_hPFF, tau_mask),
        tcs_mask_noself=tcs(diag_hPFF, tau_noself),
        dsr_map=dsr(diag_hPFF, tau_map),
        dsr_map_noself=dsr(diag_hPFF, tau_map, include_self=False),
        dsr_mask=dsr(diag_hPFF, tau_mask),
        dsr_mask_noself=dsr(diag_hPFF, tau_noself, include_self=False),
        frames=frames,
    )


def joined(layers: Sequence[HeadStatistics]) -> HeadStatistics:
    """Return the statistics of all layers' heads as one, in the layers' order."""
    parts = [layer.tensors() for layer in layers]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "frames"}
    return HeadStatistics(**whole, frames=layers[0].frames, layers=len(layers))


# Choosing -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """One sample's measures under the decisions taken, their z-scores over the heads, their sum, the chosen heads.

    `heads` are places in the other fields; `named` is what they are called.
    """

    dfc: PerHead
    dfc_stderr: PerHead
    tcs: PerHead
    dsr: PerHead
    z_3h: Float[Tensor, "3 h"]
    score: PerHead
    heads: list[int]
    frames: int
    layers: int | None = None

    @property
    def _per_layer(self) -> int | None:
        return None if self.layers is None else len(self.score) // self.layers

    @property
    def names(self) -> list[Head]:
        """What every head is called: its number, or (layer, head) where layers are apart."""
        per_layer = self._per_layer
        return [place if per_layer is None else divmod(place, per_layer) for place in range(len(self.score))]

    @property
    def named(self) -> list[Head]:
        """What the chosen heads are called."""
        names = self.names
        return [names[place] for place in self.heads]

    def of(self, named: Sequence[Head]) -> Choice:
        """Return the same with these heads, whatever their scores."""
        places = {name: place for place, name in enumerate(self.names)}
        return replace(self, heads=[places[name] for name in named])


def z_score(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """(x − mean) / population standard deviation; all zero where the values are equal (up to float64 rounding)."""
    values = values.double()
    deviation = values.std(correction=0)
    if deviation <= 1e-9 * values.abs().max():
        return torch.zeros_like(values)
    return (values - values.mean()) / deviation


def share_count(ratio: float, total: int, name: str = "head_ratio") -> int:
    """⌈ratio · total⌉, at least 1, with a slack of 1e-9 before rounding up.

    Raises:
        ParameterError: the ratio is outside [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ParameterError(f"{name}={ratio:g} is no share", source=name, remedy="choose a number from 0 to 1")
    return min(total, max(1, math.ceil(ratio * total - _SLACK)))


def select_heads(scores: PerHead, head_ratio: float) -> list[int]:
    """Return the top ⌈head_ratio · h⌉ heads, at least one, ascending; ties go to the lower index."""
    ranked = torch.sort(scores, descending=True, stable=True).indices
    return sorted(ranked[: share_count(head_ratio, len(scores))].tolist())


def choose(
    stats: HeadStatistics, *, tau: Tau = "map", include_self: bool = True, head_ratio: float = 0.5, mhs: bool = True
) -> Choice:
    """One sample's motion-sensitive heads (Algorithm 1, step 2).

    Args:
        stats: the sample's statistics.
        tau: threshold of TCS and DSR: mean over the whole map, or over M.
        include_self: pairs f = f′ belong to M; else they join DFC's denominator and DSR leaves them out, TCS keeps
            them.
        head_ratio: share of the heads that is kept.
        mhs: False keeps all heads; measures and scores are returned all the same.
    """
    within = "" if include_self else "_noself"
    on2 = stats.on2 if include_self else stats.on2_noself
    off2 = stats.off2 + (stats.on2 - on2)
    focus = dfc(on2, off2)
    continuity: Tensor = stats.tcs_map if tau == "map" else getattr(stats, f"tcs_mask{within}")
    saturation: Tensor = getattr(stats, f"dsr_{tau}{within}")
    z_3h = torch.stack([z_score(focus), z_score(continuity), z_score(saturation)])
    score = z_3h.sum(0)
    heads = select_heads(score, head_ratio) if mhs else list(range(len(score)))
    error = dfc_stderr(on2, off2, stats.off2_stderr)
    return Choice(focus, error, continuity, saturation, z_3h, score, heads, stats.frames, stats.layers)


def choose_all(
    samples: Iterable[HeadStatistics],
    *,
    scope: Scope = "sample",
    tau: Tau = "map",
    include_self: bool = True,
    head_ratio: float = 0.5,
    mhs: bool = True,
) -> Iterator[Choice]:
    """Yield every sample's choice. `scope='dataset'`: one set of heads, from the mean of the samples' z-score sums.

    z-scores are averaged, not raw measures, as raw TCS grows with F and DFC has a heavy tail. `samples` are read one at
    a time, twice under `dataset`.

    Raises:
        DataError: no samples, or samples with different numbers of heads.
    """
    heads: list[int] | None = None
    if scope == "dataset" and mhs:
        every = head_table(choose_all(samples, tau=tau, include_self=include_self))
        heads = select_heads(every.score, head_ratio)
    counts: set[tuple[int, int | None]] = set()
    for stats in samples:
        counts.add((len(stats.on2), stats.layers))
        if len(counts) > 1:
            break
        chosen = choose(stats, tau=tau, include_self=include_self, head_ratio=head_ratio, mhs=mhs)
        yield chosen if heads is None else replace(chosen, heads=heads)
    if len(counts) != 1:
        problem, remedy = "no samples, or several numbers of heads", "use maps of one video model and granularity"
        raise DataError(problem, source="head statistics", remedy=remedy)


# Reporting ------------------------------------------------------------------------------------------------------------


class HeadTable:
    """Every head's measures over the samples and what saturates, added up a sample at a time."""

    def __init__(self) -> None:
        self._samples = 0
        self._names: list[Head] = []
        self._sums: dict[str, Tensor] = {}
        self._full = dict.fromkeys(("tcs", "dsr", "both"), 0)

    def add(self, choice: Choice) -> None:
        """Add a sample."""
        kept = torch.zeros_like(choice.score)
        kept[choice.heads] = 1
        values = {name: getattr(choice, name) for name in ("dfc", "tcs", "dsr", "score", "z_3h")}
        for name, value in {**values, "error2": choice.dfc_stderr.square(), "chosen": kept}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.double()
        self._samples += 1
        self._names = choice.names
        tcs_full = choice.tcs[choice.heads] >= choice.frames * (1 - _TOLERANCE)
        dsr_full = choice.dsr[choice.heads] >= 1 - _TOLERANCE
        for name, full in (("tcs", tcs_full), ("dsr", dsr_full), ("both", tcs_full & dsr_full)):
            self._full[name] += int(full.sum())

    @property
    def score(self) -> PerHead:
        """Mean of the z-score sums."""
        return self._sums["score"] / self._samples

    def rows(self) -> list[HeadRow]:
        """One row a head: means over the samples, and how often it was chosen.

        The error of the mean DFC is that of its sampled denominators: √(Σ σ²) / n.
        """
        n = self._samples
        mean = {name: (value / n).tolist() for name, value in self._sums.items()}
        error, chosen = (self._sums["error2"].sqrt() / n).tolist(), self._sums["chosen"].long().tolist()
        z_h3 = (self._sums["z_3h"] / n).T.tolist()
        return [
            HeadRow(
                head=name if isinstance(name, int) else name[1],
                layer=None if isinstance(name, int) else name[0],
                dfc=mean["dfc"][place],
                dfc_stderr=error[place],
                tcs=mean["tcs"][place],
                dsr=mean["dsr"][place],
                z=tuple(z_h3[place]),
                score=mean["score"][place],
                chosen=chosen[place],
                samples=n,
            )
            for place, name in enumerate(self._names)
        ]

    def saturation(self) -> dict[str, float]:
        """Share of the chosen (sample, head) pairs with TCS = F, with DSR = 1, and with both.

        Near 1 in `both`, MHS found heads that attend by position whatever the content.
        """
        pairs = float(self._sums["chosen"].sum())
        return {name: count / pairs for name, count in self._full.items()}


def head_table(choices: Iterable[Choice]) -> HeadTable:
    """Return the table of these samples."""
    table = HeadTable()
    for choice in choices:
        table.add(choice)
    return table
