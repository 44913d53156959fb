"""Rows of the attention capture: what it adds to the reconstruction it rides on, and what it saves against full maps.

The model is a CogVideoX of the real class with random weights: on a CPU of real proportions (4 layers, 8 heads of 64,
float32) with R = S / 16 rows, on a GPU CogVideoX-5B's own layers in bfloat16 with R = S / 34, the pipeline's default at
its size; 40 words on both. The full-map side is what one would write first: softmax(QKᵀ/√d) of the captured stream as
an h × L × L tensor, summed over layers. Both sides are checked to give the same numbers before anything is measured.

Legend: N1 levels, h heads, L = text + S, T words, S = F·H·W video tokens, P = H·W places, d head width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import CogVideoXTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from bench.measure import memory_ratio, time_ratio
from bench.table import Row
from components.attention_capture.capture import CapturedMaps, CaptureSpec, HeadReductions, UnionAttention
from components.attention_capture.memory import reconstruct_with_memory
from components.models.video import load_vdm
from components.models.video.cogvideox import (
    LATENT_CHANNELS,
    TEXT_LENGTH,
    TEXT_WIDTH,
    CogVideoX,
    attention,
    make_tiny,
)
from components.models.video.interface import EncodedText
from components.models.video.noise import Levels


class Setup(NamedTuple):
    """A device's model and sizes; whole steps are held to both bounds at `bound_sizes`."""

    device: str
    dtype: str
    heads: int
    layers: int
    time_width: int
    rows_share: int
    grids: dict[str, tuple[int, int, int]]
    full_maps: tuple[str, ...]
    bound_sizes: tuple[str, ...]
    without_capture: str


_CPU_GRIDS = {"S=1560": (6, 13, 20), "S=3120": (12, 13, 20), "S=4680": (18, 13, 20)}
_CPU = Setup("cpu", "float32", 8, 4, 128, 16, _CPU_GRIDS, tuple(_CPU_GRIDS), ("S=3120", "S=4680"), "S=1560")
# CogVideoX-5B has 42 such layers; at 49 frames of 480 x 720 it sees S = 17550
_CUDA_GRIDS = {"S=4200": (7, 20, 30), "S=8775": (13, 15, 45), "S=17550": (13, 30, 45)}
_CUDA = Setup("cuda", "bfloat16", 48, 6, 512, 34, _CUDA_GRIDS, ("S=4200", "S=8775"), ("S=4200", "S=8775"), "S=17550")
SETUP = _CUDA if torch.cuda.is_available() else _CPU
GUIDANCE = 6.0
NUM_STEPS = 2
WORDS = (
    "the red ball rolls right and the blue cube stays while the green disc falls down then a big black dog runs from "
    "left to right behind the white car and a small yellow bird jumps up over the orange box"
)


@dataclass(frozen=True, eq=False)
class Scene:
    """A model with everything that a reconstruction takes."""

    vdm: CogVideoX
    spec: CaptureSpec
    schedule: Levels
    trajectory: Float[Tensor, "N1 1 F C h w"]
    text: EncodedText
    negative: EncodedText


class FullStatistics(NamedTuple):
    """What `HeadReductions` holds, from full maps."""

    t2v: Float[Tensor, "h T S"]
    sum_m: Float[Tensor, " h"]
    sum_not_m: Float[Tensor, " h"]
    tau_map: Float[Tensor, " h"]


class FullMaps:
    """The accumulator one would write first, in `CapturedMaps`' place: the stream's whole attention, h × L × L."""

    def __init__(self, spec: CaptureSpec) -> None:
        self.spec, self.count = spec, 0
        self.sum_hLL: Tensor | None = None

    @torch.no_grad()
    def add(
        self, q_hLd: Tensor, k_hLd: Tensor, own_lse_hL: Tensor, reference: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Add one attention call; the log-sum-exps are not needed, as whole rows are there."""
        map_hLL = (q_hLd.float() @ k_hLd.float().mT * q_hLd.shape[-1] ** -0.5).softmax(-1)
        self.sum_hLL = map_hLL if self.sum_hLL is None else self.sum_hLL.add_(map_hLL)
        self.count += 1

    def statistics(self) -> FullStatistics:
        """Return the same statistics as the capture's, exact."""
        assert self.sum_hLL is not None
        mean_hLL = self.sum_hLL.div_(self.count)
        frames, height, width = self.spec.grid
        text = mean_hLL.shape[-1] - self.spec.num_video_tokens
        v2v_hSS = mean_hLL[:, text:, text:]
        places = height * width
        same_hFFP = mean_hLL[:, text:, text:].reshape(-1, frames, places, frames, places).diagonal(dim1=2, dim2=4)
        sum_m = same_hFFP.square().sum((1, 2, 3))
        everything = torch.stack([map_SS.square().sum() for map_SS in v2v_hSS])
        return FullStatistics(
            mean_hLL[:, list(self.spec.text_indices), text:], sum_m, everything - sum_m, v2v_hSS.mean((1, 2))
        )


def rows(pairs: int = 3) -> Iterator[Row]:
    """Measure the capture's rows of the table.

    The maps alone are held to both bounds at every size. A whole step is held to them at `bound_sizes`: below, the
    activations of the model, which no capture can save, outweigh the maps; those rows are printed as measured, without
    a bound.
    """
    yield from _against_no_capture(pairs)
    for name in SETUP.full_maps:
        check_agreement(scene(name))
        yield from _against_full_maps("maps", name, True, pairs)
        # pairs of 20 s and more scatter by a few percent: two are enough
        yield from _against_full_maps("step", name, name in SETUP.bound_sizes, 2)


def _against_full_maps(what: str, size: str, held: bool, pairs: int) -> Iterator[Row]:
    one, other = f"{what}-capture", f"{what}-full"
    label = {"maps": "one layer's maps alone", "step": "one denoising step"}[what]
    time_bound, memory_bound = (1.0, 0.5) if held else (None, None)
    # of a whole step, the check has already run both sides
    yield time_ratio(
        f"capture / full maps, time, {label}, {size}",
        time_bound,
        work(one, size),
        work(other, size),
        pairs,
        warm_up=what == "maps",
    )
    yield memory_ratio(
        f"capture / full maps, peak memory, {label}, {size}",
        memory_bound,
        f"video:{one}:{size}",
        f"video:{other}:{size}",
    )


def _against_no_capture(pairs: int) -> Iterator[Row]:
    name = SETUP.without_capture
    made = scene(name)

    def with_capture() -> object:
        maps = _reconstruct(made, made.spec)
        assert maps is not None
        return maps.reduce(), maps.t2v

    label = "reconstruction with / without capture, time"
    yield time_ratio(f"{label}, {name}", 1.25, with_capture, lambda: _reconstruct(made, None), pairs)
    size = SETUP.bound_sizes[0]
    label = f"capture / no capture, peak memory, one denoising step, {size}"
    yield memory_ratio(label, None, f"video:step-capture:{size}", f"video:step-none:{size}")


def work(what: str, size: str) -> Callable[[], object]:
    """Return the work of a case.

    `step-capture`, `step-full`, `step-none`: one denoising step of [uncond, cond, reference, reference] with its
    statistics; `maps-capture`, `maps-full`: the maps of one attention call whose q, k and log-sum-exp are there, with
    their statistics.
    """
    made = scene(size)
    part, side = what.split("-")
    if side == "none":
        return lambda: _one_step(made, None)
    keeper = {"capture": _captured, "full": _full}[side]
    if part == "step":
        return lambda: keeper(made, lambda maps: _one_step(made, maps))
    q, k, lse, reference = _one_call(made)
    return lambda: keeper(made, lambda maps: maps.add(q, k, lse, reference))


def check_agreement(made: Scene) -> None:
    """Compare what both sides see.

    Raises:
        RuntimeError: they differ; then no ratio means anything.
    """
    maps, kept = _captured(made, lambda maps: _one_step(made, maps))
    full = _full(made, lambda maps: _one_step(made, maps))
    exact = {"t2v": (maps.t2v, full.t2v), "sum_m": (kept.sum_m, full.sum_m), "tau_map": (kept.tau_map, full.tau_map)}
    for name, (one, other) in exact.items():
        if not torch.allclose(one.double().cpu(), other.double().cpu(), rtol=1e-3, atol=1e-9):
            raise RuntimeError(f"capture and full maps differ in {name}")
    wanted = full.sum_not_m.double().cpu()
    distance = (kept.sum_not_m.double().cpu() - wanted).abs()
    if not bool((distance <= 6 * kept.sum_not_m_error.cpu() + 1e-3 * wanted).all()):
        raise RuntimeError("the sampled rows' estimate is not within six standard errors of the full maps")


def _captured(made: Scene, fill: Callable[[Any], None]) -> tuple[CapturedMaps, HeadReductions]:
    maps = CapturedMaps(made.spec)
    fill(maps)
    return maps, maps.reduce()


def _full(made: Scene, fill: Callable[[Any], None]) -> FullStatistics:
    maps = FullMaps(made.spec)
    fill(maps)
    return maps.statistics()


def _one_step(made: Scene, maps: Any) -> None:
    """Call the transformer as `reconstruct_with_memory` does, with any accumulator or none."""
    latents = made.trajectory[-1].expand(4, -1, -1, -1, -1)
    texts = EncodedText.batch([made.negative, made.text] * 2)
    with attention(made.vdm.transformer, UnionAttention(memory=True, maps=maps)):
        made.vdm.velocity(latents, made.schedule.timestep(NUM_STEPS), texts)


def _one_call(made: Scene) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return what `add` is given in the transformer's first layer."""
    calls: list[Any] = []

    class Tap(CapturedMaps):
        def add(self, *call: Any) -> None:
            calls.append(call)

    _one_step(made, Tap(made.spec))
    q_hLd, k_hLd, lse_hL, (k_reference, lse_reference) = calls[0]
    return q_hLd.clone(), k_hLd.clone(), lse_hL.clone(), (k_reference.clone(), lse_reference.clone())


def _reconstruct(made: Scene, spec: CaptureSpec | None) -> CapturedMaps | None:
    return reconstruct_with_memory(
        made.vdm,
        made.trajectory,
        made.schedule,
        made.text,
        GUIDANCE,
        capture=spec,
        memory=True,
        negative=made.negative,
    ).maps


@cache
def scene(size: str) -> Scene:
    """Return the model at one of the grids, a text of 40 words, and a trajectory: one clip at its levels' noise."""
    frames, height, width = grid = SETUP.grids[size]
    vdm = _model(height, width)
    schedule = vdm.levels(NUM_STEPS)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (
        torch.randn(1, frames, LATENT_CHANNELS, 2 * height, 2 * width, generator=generator) for _ in range(2)
    )
    shares = zip(schedule.signal.float(), schedule.noise.float(), strict=True)
    trajectory = torch.stack([a * clean + b * noise for a, b in shares]).to(vdm.device, vdm.dtype)
    spec = CaptureSpec(
        text_indices=tuple(piece.index for piece in vdm.tokenize(WORDS)),
        grid=grid,
        rows=frames * height * width // SETUP.rows_share,
        memory=True,
    )
    return Scene(vdm, spec, schedule, trajectory, vdm.encode_text(WORDS), vdm.encode_text(""))


@cache
def _model(height: int, width: int) -> CogVideoX:
    with tempfile.TemporaryDirectory() as folder:
        vdm = load_vdm(make_tiny(Path(folder)), SETUP.dtype, SETUP.device)
    with torch.random.fork_rng(), torch.device(SETUP.device):
        torch.manual_seed(0)
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=SETUP.heads,
            attention_head_dim=64,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            time_embed_dim=SETUP.time_width,
            text_embed_dim=TEXT_WIDTH,
            num_layers=SETUP.layers,
            sample_height=2 * height,
            sample_width=2 * width,
            patch_size=2,
            max_text_seq_length=TEXT_LENGTH,
            use_rotary_positional_embeddings=True,
        )
    return replace(vdm, transformer=transformer.to(vdm.dtype).eval().requires_grad_(False))
