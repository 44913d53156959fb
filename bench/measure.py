"""How the bench measures: ratios of times in interleaved pairs, peaks of memory in processes of their own.

Time: both sides run once unmeasured where nothing has warmed them before, then in pairs whose order alternates; the
value is the median of the pairs' ratios, so that a machine that slows down slows both. Memory: a child process
(`bench.probe`) runs a case once, resets the kernel's high-water mark (VmHWM), runs it again, and reports the mark minus
what was resident before: weights and gradient buffers are in the baseline, a peak is what one more run needs. glibc
returns freed tensors at once there (`MALLOC_MMAP_THRESHOLD_`), so resident memory follows the tensors. On a GPU the
clock waits for it, and memory is what torch's allocator has handed out.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import torch

from bench.table import ROOT, Row

MIB = 2**20
QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
_RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def prepare(level: str = "INFO") -> None:
    """Set up logging, and one thread here and in the processes to come."""
    logging.basicConfig(level=level, format="%(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel("WARNING")
    os.environ.update(QUIET)
    torch.set_num_threads(1)


def workers(count: int, initializer: Callable[[], object] = prepare) -> ProcessPoolExecutor:
    """Return a pool of `count` fresh processes."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=initializer)


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the time of one call; wall-clock time unless another clock is given."""
    gc.collect()
    _wait()
    start = clock()
    work()
    _wait()
    return clock() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_ratio(
    name: str,
    bound: float | None,
    one: Callable[[], object],
    other: Callable[[], object],
    pairs: int,
    *,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """Compare the times of `one` and `other`: the median over interleaved pairs after an unmeasured one (`warm_up`)."""
    if warm_up:
        one()
        other()
    measured: list[tuple[float, float]] = []
    for k in range(pairs):
        if k % 2:
            after = seconds(other, clock)
            measured.append((seconds(one, clock), after))
        else:
            measured.append((seconds(one, clock), seconds(other, clock)))
    ratios = [a / b for a, b in measured]
    a, b = (statistics.median(side) for side in zip(*measured, strict=True))
    detail = f"{a:.2f} s / {b:.2f} s, {pairs} pairs from {min(ratios):.3f} to {max(ratios):.3f}"
    return Row(name, statistics.median(ratios), bound, detail)


def memory_ratio(name: str, bound: float | None, one: str, other: str) -> Row:
    """Compare the peak memory of the cases `one` and `other`, each in a process of its own."""
    a, b = peak_bytes(one), peak_bytes(other)
    return Row(name, a / b, bound, f"{a / MIB:.0f} MiB / {b / MIB:.0f} MiB")


@cache
def peak_bytes(case: str) -> int:
    """Return the bytes that one more run of a case needs beyond what is resident before it.

    Raises:
        RuntimeError: the child process failed.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the child needs what this process keeps for later
    command = [sys.executable, "-m", "bench.probe", case]
    answer = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **QUIET, **_RETURN_FREED}, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise RuntimeError(f"the memory probe of {case} ended with code {answer.returncode}:\n{answer.stderr[-3000:]}")
    return int(answer.stdout.split()[-1])


def run_peak(work: Callable[[], object]) -> int:
    """Return the bytes of the GPU, or of this process without one, that `work` needs beyond what is there before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    reset_peak()
    before = status_bytes("VmRSS")
    work()
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> int:
    """Return a size of this process: `VmRSS` is resident now, `VmHWM` the most since the last `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this kernel reports no {field}")


def reset_peak() -> None:
    """Let `VmHWM` start again from what is resident now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
