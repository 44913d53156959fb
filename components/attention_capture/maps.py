"""Attention maps accumulated while a video model runs, and their reductions (main text eqs. 11–13), never S × S.

A is the softmax over [text; video] keys averaged over layers and steps, per head; logits are recomputed in float32 from
q and k, and divided by the row's log-sum-exp. Kept exactly: A_t2v of the chosen text rows, A_v2v at the same location
for all frame pairs, each video row's mass on text, and R sampled rows of A_v2v. The v2v mean over all S × S follows
exactly: τ = (Σ row mass − Σ text mass) / S². Σ A² off the same-location pairs is estimated from the sampled rows
without bias (exactly at R = S).

Legend: h heads, L = text length + S sequence, T chosen text tokens, S = F·H·W video tokens (frame-major), P = H·W
places, F frames, R sampled rows, d head width, n picture side, B pictured places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.attention_capture.settings import Norm
from components.attention_capture.softmax import BLOCK_ELEMENTS
from components.core.errors import ParameterError
from components.head_selection.settings import Tau


@dataclass(frozen=True)
class CaptureSpec:
    """What is captured of a run.

    Attributes:
        text_indices: positions in the text sequence whose rows are kept (real tokens, no pads).
        grid: the transformer's (F, H, W).
        norm: with reference keys, softmax over the stream's `own` keys, its own part of the softmax over both
            (`joint`), or the mass of both copies of a position (`fold`); without reference keys all three are the same.
        rows: R sampled video rows; R ≥ S keeps all.
        seed: of the row sample.
        stream: the batch row that is captured; None is the last main row, which is the conditional one of [uncond,
            cond].
        memory: the batch's second half is the reference, and the first half attends to its keys and values as well.
        layers: attention layers of the network, whose maps are then kept apart; None: their mean.
    """

    text_indices: tuple[int, ...]
    grid: tuple[int, int, int]
    norm: Norm = "own"
    rows: int = 512
    seed: int = 0
    stream: int | None = None
    memory: bool = False
    layers: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in ("own", "joint", "fold"):
            raise ParameterError(f"norm = {self.norm!r}", source="CaptureSpec.norm", remedy="choose own, joint or fold")
        if len(self.grid) != 3 or min(self.grid) < 1:
            raise ParameterError(
                f"grid = {self.grid}", source="CaptureSpec.grid", remedy="give the transformer's (F, H, W)"
            )
        if self.rows < 2:
            raise ParameterError(f"rows = {self.rows}", source="CaptureSpec.rows", remedy="sample at least 2 rows")
        if self.layers is not None and self.layers < 1:
            raise ParameterError(
                f"layers = {self.layers}", source="CaptureSpec.layers", remedy="give the network's number, or None"
            )
        if not self.text_indices or min(self.text_indices) < 0 or len(set(self.text_indices)) < len(self.text_indices):
            raise ParameterError(
                f"text_indices = {self.text_indices}",
                source="CaptureSpec.text_indices",
                remedy="give distinct positions",
            )

    @property
    def num_video_tokens(self) -> int:
        """S."""
        frames, height, width = self.grid
        return frames * height * width


@dataclass(frozen=True, eq=False)
class HeadReductions:
    """What head selection and the pictures need of a run's v2v maps, float64 on the CPU unless said.

    Attributes:
        sum_m: Σ A² over pairs of the same location, f = f′ included.
        sum_not_m: Σ A² over all other pairs.
        sum_not_m_error: its standard error; 0 where all rows were kept.
        tau_map: mean of A_v2v over all S × S.
        tau_mask: mean over the same-location pairs.
        diag_hPFF: the same-location entries A[(f, p), (f′, p)], float32.
        thumbnail_hnn: A_v2v·S pooled to a small square, frame-major, float32.
        places: the locations p whose exact blocks are pictured.
        block_hBFF: their A·S, float32.
    """

    sum_m: Float[Tensor, " h"]
    sum_not_m: Float[Tensor, " h"]
    sum_not_m_error: Float[Tensor, " h"]
    tau_map: Float[Tensor, " h"]
    tau_mask: Float[Tensor, " h"]
    diag_hPFF: Float[Tensor, "h P F F"]
    thumbnail_hnn: Float[Tensor, "h n n"]
    places: tuple[int, ...]
    block_hBFF: Float[Tensor, "h B F F"]


class CapturedMaps:
    """Accumulators of one capture; everything it returns is the mean over the `count` attention calls seen.

    With `spec.layers` these are in `per_layer`: a forward pass calls one layer after the other.
    """

    def __init__(self, spec: CaptureSpec) -> None:
        self.spec = spec
        self.count = 0
        self.per_layer = [CapturedMaps(replace(spec, layers=None)) for _ in range(spec.layers or 0)]
        size = spec.num_video_tokens
        picked = torch.randperm(size, generator=torch.Generator().manual_seed(spec.seed))[: spec.rows]
        self.row_indices: Int[Tensor, " R"] = picked.sort().values
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(
        self,
        q_hLd: Float[Tensor, "h L d"],
        k_hLd: Float[Tensor, "h L d"],
        own_lse_hL: Float[Tensor, "h L"],
        reference: tuple[Float[Tensor, "h L d"], Float[Tensor, "h L"]] | None = None,
    ) -> None:
        """Add one attention call of the captured stream: queries and keys after norm and rotation, and the log-sum-exp.

        Args:
            q_hLd: queries of the stream.
            k_hLd: its own keys.
            own_lse_hL: log-sum-exp of its queries over them.
            reference: keys of the reference stream, and the log-sum-exp of the same queries over those.

        Raises:
            ParameterError: the sequence is not `spec.grid` behind a text that holds `spec.text_indices`.
        """
        if self.per_layer:
            self.per_layer[self.count % len(self.per_layer)].add(q_hLd, k_hLd, own_lse_hL, reference)
            self.count += 1
            return
        text = q_hLd.shape[1] - self.spec.num_video_tokens
        if text <= max(self.spec.text_indices):
            raise ParameterError(
                f"{q_hLd.shape[1]} tokens do not hold a grid of {self.spec.grid} behind text rows up to "
                f"{max(self.spec.text_indices)}",
                source="CaptureSpec.grid, text_indices",
                remedy="give the grid and tokens of this very call",
            )
        q = q_hLd.float() * q_hLd.shape[-1] ** -0.5
        lse, keys = own_lse_hL, [k_hLd.float()]
        if reference is not None and self.spec.norm != "own":
            lse = torch.logaddexp(own_lse_hL, reference[1])
            if self.spec.norm == "fold":
                keys.append(reference[0].float())
            else:
                self._accumulate("share_hS", torch.exp(own_lse_hL - lse)[:, text:])
        self._start(q.shape[0], q.device)
        for k in keys:
            self._add_keys(q, k, lse, text)
        self.count += 1

    def _start(self, heads: int, device: torch.device) -> None:
        if "t2v_hTS" in self._sums:
            return
        frames, height, width = self.spec.grid
        size = self.spec.num_video_tokens
        shapes = {
            "t2v_hTS": (len(self.spec.text_indices), size),
            "diag_hPFF": (height * width, frames, frames),
            "text_mass_hS": (size,),
            "rows_hRS": (len(self.row_indices), size),
        }
        self._sums |= {name: torch.zeros(heads, *shape, device=device) for name, shape in shapes.items()}

    def _add_keys(self, q: Tensor, k: Tensor, lse: Tensor, text: int) -> None:
        """Add exp(q·k − lse) of one set of keys to every accumulator."""
        chosen = torch.tensor(self.spec.text_indices, device=q.device)
        rows = self.row_indices.to(q.device)
        q_video, k_video, lse_video = q[:, text:], k[:, text:], lse[:, text:]
        _add_probabilities(self._sums["t2v_hTS"], q[:, chosen], k_video, lse[:, chosen])
        _add_probabilities(self._sums["rows_hRS"], q_video[:, rows], k_video, lse_video[:, rows])
        _add_mass(self._sums["text_mass_hS"], q_video, k[:, :text], lse_video)
        frames, height, width = self.spec.grid
        shape = (q.shape[0], frames, height * width)
        q_hPFd, k_hPFd = (x.reshape(*shape, -1).transpose(1, 2) for x in (q_video, k_video))
        logits_hPFF = q_hPFd @ k_hPFd.mT
        self._sums["diag_hPFF"] += logits_hPFF.sub_(lse_video.view(shape).transpose(1, 2)[..., None]).exp_()

    def _accumulate(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _sum(self, name: str) -> Tensor:
        if name in self._sums:
            return self._sums[name]
        problem, remedy = "nothing was captured", "run the transformer inside capture_attention"
        if self.per_layer:
            problem, remedy = "the maps of the layers are kept apart", "read `per_layer`"
        raise ParameterError(problem, source="CapturedMaps", remedy=remedy)

    def _mean(self, name: str) -> Tensor:
        return self._sum(name) / self.count

    @property
    def heads(self) -> int:
        """How many heads a layer has."""
        return len(self._sum("t2v_hTS"))

    @property
    def t2v(self) -> Float[Tensor, "h T S"]:
        """A from each chosen text token to all video tokens."""
        return self._mean("t2v_hTS")

    def t2v_sum(self, heads: Sequence[int]) -> Float[Tensor, "T S"]:
        """Return the sum of `t2v` over some heads."""
        return self._sum("t2v_hTS")[list(heads)].sum(0) / self.count

    @property
    def diag(self) -> Float[Tensor, "h P F F"]:
        """A between frames at the same location: [head, place, frame of the query, frame of the key]."""
        return self._mean("diag_hPFF")

    @property
    def text_mass(self) -> Float[Tensor, "h S"]:
        """Each video row's mass on all text columns, pads included."""
        return self._mean("text_mass_hS")

    @property
    def rows(self) -> Float[Tensor, "h R S"]:
        """The sampled rows `row_indices` of A_v2v."""
        return self._mean("rows_hRS")

    @property
    def row_mass(self) -> Float[Tensor, "h S"]:
        """Each video row's mass on text and video: 1, or under `joint` its share on the stream's own keys."""
        return self._mean("share_hS") if "share_hS" in self._sums else torch.ones_like(self.text_mass)

    def tau(self, kind: Tau = "map") -> Float[Tensor, " h"]:
        """Return the mean of A_v2v over all S × S (exact), or over pairs of the same location, float64."""
        if kind == "mask":
            return self.diag.double().mean((1, 2, 3))
        mass = self.row_mass.double() - self.text_mass.double()
        return mass.sum(1) / self.spec.num_video_tokens**2

    def reduce(self, thumbnail: int = 32, places: int = 4) -> HeadReductions:
        """Head statistics and picture material of the averaged map.

        Args:
            thumbnail: side of the pooled v2v picture, at most S.
            places: locations whose exact F × F block is kept, evenly spread.
        """
        diag = self.diag
        rest, error = self._rest()
        number = min(places, diag.shape[1])
        chosen = tuple(diag.shape[1] * (2 * i + 1) // (2 * number) for i in range(number))
        size = self.spec.num_video_tokens
        return HeadReductions(
            sum_m=diag.double().square().sum((1, 2, 3)).cpu(),
            sum_not_m=rest.cpu(),
            sum_not_m_error=error.cpu(),
            tau_map=self.tau("map").cpu(),
            tau_mask=self.tau("mask").cpu(),
            diag_hPFF=diag.cpu(),
            thumbnail_hnn=self._thumbnail(min(thumbnail, size)).cpu(),
            places=chosen,
            block_hBFF=(diag[:, list(chosen)] * size).cpu(),
        )

    def _heads(self) -> Iterator[Float[Tensor, "R S"]]:
        """Yield the sampled rows of one head after the other; a copy of all would double their memory."""
        for rows_RS in self._sums["rows_hRS"]:
            yield rows_RS / self.count

    def _rest(self) -> tuple[Float[Tensor, " h"], Float[Tensor, " h"]]:
        """Σ A² off the same-location pairs, from the sampled rows, and its standard error (without replacement)."""
        size, number = self.spec.num_video_tokens, len(self.row_indices)
        frames, height, width = self.spec.grid
        rows = self.row_indices.to(self._sums["rows_hRS"].device)
        same_RF = (rows % (height * width))[:, None] + torch.arange(frames, device=rows.device) * (height * width)
        energies = []
        for rows_RS in self._heads():
            # zeroed, not subtracted: in a head that only looks at its own location the difference would be rounding
            energies.append(rows_RS.scatter(1, same_RF, 0.0).double().square().sum(1))
        energy_hR = torch.stack(energies)
        error = size * energy_hR.std(1) * ((1 - number / size) / number) ** 0.5
        return size * energy_hR.mean(1), error

    def _thumbnail(self, side: int) -> Float[Tensor, "h n n"]:
        """Pool the density: columns by mean, rows by the mean of a bin's samples or else its nearest sample."""
        size = self.spec.num_video_tokens
        rows = self.row_indices.to(self._sums["rows_hRS"].device)
        weight_nR = torch.zeros(side, len(rows), device=rows.device)
        weight_nR[rows * side // size, torch.arange(len(rows), device=rows.device)] = 1.0
        centre = (torch.arange(side, device=rows.device) + 0.5) * size / side
        nearest = (rows[None] - centre[:, None]).abs().argmin(1)
        empty = weight_nR.sum(1) == 0
        weight_nR[empty, nearest[empty]] = 1.0
        weight_nR /= weight_nR.sum(1, keepdim=True)
        pooled = [torch.nn.functional.adaptive_avg_pool1d(weight_nR @ rows_RS, side) for rows_RS in self._heads()]
        return torch.stack(pooled) * size


def _blocks(heads: int, elements_per_head: int) -> Sequence[slice]:
    """Slices of heads whose blocks stay within `BLOCK_ELEMENTS`."""
    step = max(1, BLOCK_ELEMENTS // elements_per_head)
    return [slice(start, start + step) for start in range(0, heads, step)]


def _add_probabilities(total: Tensor, q: Tensor, k: Tensor, lse: Tensor) -> None:
    """In place, `total` [h, Q, K] += exp(q kᵀ − lse)."""
    for part in _blocks(q.shape[0], q.shape[1] * k.shape[1]):
        logits = q[part] @ k[part].mT
        total[part] += logits.sub_(lse[part][..., None]).exp_()


def _add_mass(total: Tensor, q: Tensor, k: Tensor, lse: Tensor) -> None:
    """In place, `total` [h, Q] += Σ_K exp(q kᵀ − lse)."""
    for part in _blocks(q.shape[0], q.shape[1] * k.shape[1]):
        logits = q[part] @ k[part].mT
        total[part] += logits.sub_(lse[part][..., None]).exp_().sum(-1)
