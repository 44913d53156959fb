"""The meter against closed forms on a clock that the test sets, and against the system's own memory counter."""

import re
from pathlib import Path

import pytest
import torch

from components.sft import speed
from components.sft.speed import Meter, peak_tflops

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test adds them."""
    time = [100.0]
    monkeypatch.setattr(speed, "perf_counter", lambda: time[0])
    return time


def slow(clock, items, seconds):
    for item in items:
        clock[0] += seconds
        yield item


def step(meter, clock, items, wait, work, tokens):
    for _ in meter.read(slow(clock, items, wait)):
        clock[0] += work
        meter.add(tokens, 2e12)


def test_rates_are_those_of_all_processes(clock, monkeypatch):
    meters = [Meter(CPU, process, 2, peak=4.0) for process in (0, 1)]
    monkeypatch.setattr(speed, "_peak_memory", lambda device: 3 << 30)
    step(meters[0], clock, "ab", 1.0, 4.0, tokens=300)  # 10 s each; both clocks run for all 20
    step(meters[1], clock, "cd", 0.5, 4.5, tokens=500)
    first = meters[0].sums()
    monkeypatch.setattr(speed, "_peak_memory", lambda device: 5 << 30)
    sums = [a + b for a, b in zip(first, meters[1].sums(), strict=True)]
    found = meters[0].rates(sums)
    assert found == {
        "samples_per_second": 4 / 20,
        "tokens_per_second": 1600 / 20,
        "data_wait_share": (2 * 1.0 + 2 * 0.5) / 40,
        "peak_memory_gib": 5.0,
        "mfu": pytest.approx(4 * 2e12 / (2 * 20 * 4e12)),
    }
    clock[0] += 2.0
    assert meters[0].sums()[:5] == [2.0, 0.0, 0.0, 0.0, 0.0]  # each call begins anew


def test_a_pause_does_not_count_nor_does_its_waiting(clock):
    meter = Meter(CPU, 0, 1)
    clock[0] += 3.0
    with meter.paused():
        for _ in meter.read(slow(clock, "xyz", 1.0)):
            clock[0] += 1.0
    step(meter, clock, "a", 1.0, 4.0, tokens=10)
    sums = meter.sums()
    assert sums[:4] == [8.0, 1.0, 1.0, 10.0]
    assert "mfu" not in meter.rates(sums)  # of a CPU no peak is known


def test_memory_on_a_cpu_is_the_systems_high_water_mark():
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    *_, found = Meter(CPU, 0, 1).sums()
    assert found == pytest.approx(int(kib) * 1024, rel=0.02)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A10", 125),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA A10G", None),
        ("NVIDIA L40", None),
        ("Tesla V100-SXM2-16GB", None),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
    ],
)
def test_peak_by_name(name, peak):
    assert peak_tflops(name) == peak
