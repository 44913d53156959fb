"""One engine for every training: torch's own FSDP around the VLM, small trainable parts whole beside it, AdamW.

One process, many processes, full tuning and low-rank updates run through the same calls. The VLM's weights lie in parts
(fp32 masters in full tuning; where they are frozen, in the precision that is computed in); each block is put together
for its forward and backward pass in the computing precision and given up again. Gradients are reduced and kept in
fp32. The aligner and low-rank updates are fp32 and whole in every process, outside of any cast, and their gradients are
averaged here. No autocast anywhere: the forward pass is bit for bit that of a plain model of the computing precision.

FSDP splits a block's flattened parameters among the processes in the order of their ranks, so what a process holds of
a parameter is one interval of its flattened elements (`Interval`); states and exports need no more than these.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision

from components.models.vlm.interface import VlmPart
from components.models.vlm.model import Vlm
from components.sft.module import MotionSFT, parameter_groups, unwrapped
from components.sft.processes import Processes
from components.sft.settings import SftSettings

Precision = Literal["bf16", "fp32"]
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def precision_of(settings: SftSettings, device: torch.device) -> Precision:
    """Return what is computed in: as set, or bf16 on a GPU and fp32 on a CPU."""
    if settings.precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return settings.precision


def computing_dtype(settings: SftSettings, device: torch.device) -> torch.dtype:
    """Return the dtype of forward and backward pass, and so of frozen weights; trained ones are fp32.

    AdamW in bf16 loses updates of 2e-6.
    """
    return _DTYPES[precision_of(settings, device)]


@dataclass(frozen=True)
class Interval:
    """This process's part of a tensor of `total` elements: the flattened elements from `start` on.

    `starts` are those of all processes' parts, in the order of their ranks; a whole tensor has one part, everyone's.
    """

    values: Tensor
    start: int
    total: int
    starts: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether every process holds all of it."""
        return len(self.starts) == 1


class Engine:
    """The wrapped module, its optimizer, and the two things that a sharded model makes hard: norms and states."""

    def __init__(self, module: MotionSFT, settings: SftSettings, processes: Processes) -> None:
        self.module, self.processes = module, processes
        _place(module, processes, only=module.whole())
        self.whole = module.whole()
        precision = precision_of(settings, processes.device)
        module.model = module.vlm.model = shard(module.vlm, precision, processes, self.whole)
        groups = parameter_groups(module, settings)
        fused = {"fused": True} if processes.device.type == "cuda" else {}  # no copies of what is updated
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, **fused)
        self._starts = self._cut()

    @property
    def trained(self) -> list[nn.Parameter]:
        """Everything that the optimizer updates, as far as it lies here."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def average(self) -> None:
        """Average the whole parameters' gradients over the processes, as FSDP did with the others'.

        One without a gradient (no sample here had a target) counts as 0, so that all processes make the same update.
        """
        if not self.whole:
            return
        for parameter in self.whole:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.processes.count == 1:
            return
        flat = torch.cat([parameter.grad.reshape(-1) for parameter in self.whole if parameter.grad is not None])
        dist.all_reduce(flat)
        flat /= self.processes.count
        for parameter, part in zip(self.whole, torch.split(flat, [one.numel() for one in self.whole]), strict=True):
            parameter.grad = part.view_as(parameter)

    @torch.no_grad()
    def gradient_norm(self) -> float:
        """Return the norm of the whole gradient, the same in every process; NaN or infinity where an element is."""
        whole = {id(one) for one in self.whole}
        norms: dict[bool, list[Tensor]] = {True: [], False: []}
        for one in self.module.parameters():
            if one.grad is not None:
                norms[id(one) in whole].append(torch.linalg.vector_norm(one.grad, dtype=torch.float32))
        if self.processes.count == 1:
            return float(torch.linalg.vector_norm(torch.stack([*norms[False], *norms[True]])))
        squares = [float(torch.stack(found).double().square().sum()) if found else 0.0 for found in norms.values()]
        return math.sqrt(squares[0] + self.processes.sum(squares[1:])[0])

    @torch.no_grad()
    def update(self, norm: float, most: float) -> None:
        """Make one update with the gradient scaled to a norm of at most `most`; `norm` is that of the gradient."""
        scale = most / (torch.tensor(norm) + 1e-6)  # fp32, as torch's own clipping
        if scale < 1:
            for parameter in self.trained:
                if parameter.grad is not None:
                    parameter.grad.mul_(float(scale))
        self.optimizer.step()
        self.clear()

    def clear(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Let go of what FSDP keeps of the last pass: torch 2.5 complains of each such tensor when it is collected."""
        for unit in FullyShardedDataParallel.fsdp_modules(self.module):
            if unit._handle is not None:
                unit._handle.flat_param._tensors = None

    # States -----------------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Interval]:
        """Return what lies here of every trained parameter, by its name in the unwrapped module."""
        return {name: self._interval(name, parameter) for name, parameter in self._named()}

    def moments(self, make: bool = False) -> dict[str, Interval]:
        """Return what lies here of AdamW's two moments; with `make` they are made, of zeros, where there are none."""
        found = {}
        for name, parameter in self._named():
            state = self.optimizer.state[parameter]
            if make and "exp_avg" not in state:
                # as AdamW makes it at its first update
                state["step"] = torch.zeros(
                    (), device=parameter.device if self.processes.device.type == "cuda" else "cpu"
                )
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            if "exp_avg" in state:
                for kind in ("exp_avg", "exp_avg_sq"):
                    found[f"{name}:{kind}"] = self._interval(name, state[kind])
        return found

    def set_updates(self, count: int) -> None:
        """Say how many updates the loaded moments saw."""
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"].fill_(count)

    def gathered(self, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Yield the VLM's parameters whole, on the CPU, by the unwrapped model's names: in the first process alone.

        All processes must run through it. One tensor at a time is whole on a device.
        """
        for name, parameter in self.module.named_parameters():
            key = unwrapped(name)
            if key.startswith("model."):
                whole = self._assembled(self._interval(key, parameter))
                if whole is not None:
                    yield key.removeprefix("model."), whole.view(self.module.shapes[key]).to("cpu", dtype)

    def _assembled(self, part: Interval) -> Tensor | None:
        first, ends = self.processes.first, (*part.starts[1:], part.total)
        if part.whole:
            return part.values if first else None
        if not first:
            if part.values.numel():
                dist.send(part.values, 0)
            return None
        pieces = [part.values]
        for rank, (start, end) in enumerate(zip(part.starts, ends, strict=True)):
            if rank and end > start:
                pieces.append(part.values.new_empty(end - start))
                dist.recv(pieces[-1], rank)
        return torch.cat(pieces)

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        trained = {id(parameter) for parameter in self.trained}
        return ((unwrapped(name), one) for name, one in self.module.named_parameters() if id(one) in trained)

    def _cut(self) -> dict[str, tuple[int, ...]]:
        """Return where each process's part of every parameter starts; a whole one has one part."""
        whole = {id(parameter) for parameter in self.whole}
        named = [(unwrapped(name), one) for name, one in self.module.named_parameters()]
        sizes = self.processes.gather([one.numel() for _, one in named])
        found: dict[str, tuple[int, ...]] = {}
        for index, (name, one) in enumerate(named):
            lengths = [one.numel()] if id(one) in whole else [own[index] for own in sizes]
            assert sum(lengths) == self.module.shapes[name].numel(), name
            found[name] = tuple(sum(lengths[:rank]) for rank in range(len(lengths)))
        return found

    def _interval(self, name: str, values: Tensor) -> Interval:
        starts = self._starts[name]
        start = starts[0] if len(starts) == 1 else starts[self.processes.rank]
        return Interval(values.detach().reshape(-1), start, self.module.shapes[name].numel(), starts)


def shard(vlm: Vlm, precision: Precision, processes: Processes, whole: Sequence[nn.Parameter]) -> nn.Module:
    """Return the VLM's model in parts, one for each process; the first one holds the weights, the others' are empty.

    Units are the blocks (`_no_split_modules` of its class and of the models within), the mergers, what is left of the
    vision tower, and what is left of all: freezing goes by these parts, so a unit is trained or frozen as a whole. A
    unit's weights go from the first process to the others as it is wrapped, so that beside its own parts a process
    never holds more than one whole unit, but for the first, which gives up what it has read unit by unit.

    Args:
        vlm: parameters on the meta device are filled; frozen ones have the dtype that is computed in.
        precision: of forward and backward pass.
        processes: who takes part.
        whole: parameters that stay as they are.
    """
    model = vlm.model
    blocks = {name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    named = dict(model.named_modules())
    units = [name for name, part in named.items() if type(part).__name__ in blocks]
    units += _wholes(vlm, "merger")
    if tower := _home(vlm, "vision"):
        units.append(tower)
    policy = None
    if precision == "bf16":
        # inputs come as the model expects them; buffers (rotary frequencies) stay fp32
        policy = MixedPrecision(
            param_dtype=torch.bfloat16,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
            cast_root_forward_inputs=False,
        )

    def wrapped(part: nn.Module) -> nn.Module:
        _place(part, processes, but=whole)
        left = list(whole)
        if processes.count == 1:  # nothing to share and nothing to cast: frozen weights stay as they are
            left += [one for one in part.parameters() if not one.requires_grad]
        ignored = {id(one) for one in left}
        if not any(id(one) not in ignored for one in _own(part)):
            return part
        with warnings.catch_warnings():
            # one process has nothing to share, and FSDP says so
            warnings.filterwarnings("ignore", message=".*NO_SHARD")
            return FullyShardedDataParallel(
                part,
                mixed_precision=policy,
                ignored_states=left,
                device_id=processes.device,
                use_orig_params=True,
            )

    for name in units:
        place, _, child = name.rpartition(".")
        setattr(named[place], child, wrapped(named[name]))
    return wrapped(model)


def _home(vlm: Vlm, part: VlmPart) -> str:
    """Return the name of the smallest module that holds all parameters of a part of the model."""
    paths = [name.split(".")[:-1] for name, _ in vlm.model.named_parameters() if vlm.part(name) == part]
    shared = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))
    return ".".join(names[0] for names in shared)


def _wholes(vlm: Vlm, part: VlmPart) -> list[str]:
    """Return the names of the largest modules that hold parameters of one part of the model alone.

    A list of modules is looked into: it is not called as a whole, so that it cannot be a unit.
    """

    def visit(name: str, module: nn.Module) -> Iterator[str]:
        parts = {vlm.part(f"{name}{parameter}") for parameter, _ in module.named_parameters()}
        if parts == {part} and not isinstance(module, nn.ModuleList):
            yield name.removesuffix(".")
        elif part in parts:
            for child, inner in module.named_children():
                yield from visit(f"{name}{child}.", inner)

    return list(visit("", vlm.model))


def _own(part: nn.Module) -> Iterator[nn.Parameter]:
    """Yield a module's parameters without those of units within it."""
    if isinstance(part, FullyShardedDataParallel):
        return
    yield from part.parameters(recurse=False)
    for child in part.children():
        yield from _own(child)


def _place(
    module: nn.Module,
    processes: Processes,
    only: Sequence[nn.Parameter] | None = None,
    but: Sequence[nn.Parameter] = (),
) -> None:
    """Put parameters (and buffers, unless parameters are named) onto the device, with the first process's values.

    What is on the meta device is made first; a parameter that is used twice (tied) stays one. Units are left alone.
    """
    chosen, left = None if only is None else {id(one) for one in only}, {id(one) for one in but}
    made: dict[int, nn.Parameter] = {}

    def put(old: Tensor) -> Tensor:
        values = torch.empty_like(old, device=processes.device) if old.is_meta else old.detach().to(processes.device)
        if processes.count > 1:
            dist.broadcast(values, 0)
        return values

    def visit(part: nn.Module) -> None:
        if isinstance(part, FullyShardedDataParallel):
            return
        for name, old in list(part._parameters.items()):
            if old is None or id(old) in left or not (chosen is None or id(old) in chosen):
                continue
            if id(old) not in made:
                made[id(old)] = nn.Parameter(put(old), old.requires_grad)
                keep.append(old)
            part._parameters[name] = made[id(old)]
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and chosen is None:
                part._buffers[name] = put(buffer)
        for child in part.children():
            visit(child)

    keep: list[Tensor] = []  # an id stands for a tensor while the tensor lives
    visit(module)
