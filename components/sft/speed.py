"""How fast a training is: samples and tokens per second, the share spent waiting for data, memory, and MFU.

MFU, model FLOPs utilization, is what the model needs (`components.sft.flops`) over what the devices could do (PaLM,
appendix B): recomputation under gradient checkpointing does not count, nor do the aligner and the captured rows. Only
the host's clock is read and nothing waits for the device. So that this is right, the time from one call of `sums` to
the next counts, and the losses that are read in between wait for the device once per step.
"""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

import torch

T = TypeVar("T")
_GIB = 2**30
# dense bf16 TFLOP/s with fp32 accumulation, from the vendor's data sheets; the first pattern that is found counts
_PEAKS = (
    (r"\bMIG\b", None),  # a slice of a device
    (r"\bH[12]00 NVL\b", 835.0),
    (r"\bH100 PCIe\b", 756.0),
    (r"\b(H100|H200|GH200)\b", 989.0),
    (r"\bA100\b", 312.0),
    (r"\bL40S\b", 362.0),
    (r"\bL4\b", 121.0),
    (r"\bA10\b", 125.0),
    (r"\bRTX 4090$", 165.0),
)


def peak_tflops(name: str) -> float | None:
    """Return a GPU's peak in bf16 by the name that CUDA gives it, in TFLOP/s; None where it is not known."""
    return next((peak for pattern, peak in _PEAKS if re.search(pattern, name)), None)


class Meter:
    """Measures the steps of one process; its clock runs from the start, and `rates` are those of all processes.

    Args:
        device: whose memory and peak count.
        process: this process's number.
        processes: how many there are.
        peak: of one device in TFLOP/s; None: by its name.
    """

    def __init__(self, device: torch.device, process: int, processes: int, peak: float | None = None) -> None:
        self.device, self.process, self.processes = device, process, processes
        known = peak_tflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.peak = known if peak is None else peak
        self._begin(perf_counter())

    def _begin(self, now: float) -> None:
        self._since, self._waited, self._samples, self._tokens, self._flops = now, 0.0, 0, 0, 0.0

    def read(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items; the time until each one is there is spent waiting for data."""
        before = perf_counter()
        for item in items:
            self._waited += perf_counter() - before
            yield item
            before = perf_counter()

    def add(self, tokens: int, flops: float) -> None:
        """Count one sample of this process."""
        self._samples, self._tokens, self._flops = self._samples + 1, self._tokens + tokens, self._flops + flops

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out a block that is no training: validation, saving a state."""
        before, waited = perf_counter(), self._waited
        yield
        self._since, self._waited = self._since + perf_counter() - before, waited

    def sums(self) -> list[float]:
        """Return this process's numbers since the last call, to be added up over all processes one by one.

        Seconds, seconds of waiting, samples, tokens, FLOPs; then one place per process for its peak memory in bytes,
        so that the largest can be taken after the sum.
        """
        now = perf_counter()
        memory = [0.0] * self.processes
        memory[self.process] = float(_peak_memory(self.device))
        found = [now - self._since, self._waited, float(self._samples), float(self._tokens), self._flops, *memory]
        self._begin(now)
        return found

    def rates(self, sums: Sequence[float]) -> dict[str, float]:
        """Return the speed of all processes together from the sums over them; `mfu` where the peak is known.

        `data_wait_share` is of the host's time. Memory is the largest peak of a process so far, in GiB: what the
        device's tensors took, on a CPU the process's resident set.
        """
        seconds, waited, samples, tokens, flops, *memory = sums
        found = {
            "samples_per_second": samples * self.processes / seconds,
            "tokens_per_second": tokens * self.processes / seconds,
            "data_wait_share": waited / seconds,
            "peak_memory_gib": max(memory) / _GIB,
        }
        return found if self.peak is None else found | {"mfu": flops / (seconds * self.peak * 1e12)}


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident if sys.platform == "darwin" else resident * 1024
