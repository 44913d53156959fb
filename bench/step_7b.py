"""`python -m bench.step_7b`: a training step of Qwen2.5-VL-7B's real shape on one GPU: time, memory, MFU.

Random weights that are made on the device, no checkpoint and no network. The step is the product's own (`Training` and
its engine on one process): bfloat16 with float32 masters in full tuning, low-rank updates over bfloat16 weights in
`lora`, gradient checkpointing, AdamW, one clip of 32 frames; with alignment (λ = 1, local aligner, ten words, the prior
on CogVideoX-5B's grid) and without. Every training has a process of its own, two steps to warm up, and the median of
the rest. Where full tuning does not fit the device, it is tried with ever fewer layers of the language model.

Prints a table and writes `runs/bench-step.json`. `--tiny` runs the same code on a tiny twin, on a CPU as well.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from bench.measure import prepare, seconds, status_bytes
from bench.table import ROOT, Row, finish
from bench.training import engine_step, make_sample, processes, scratch, training
from components.core.errors import ParameterError
from components.models.vlm.model import Vlm, load_vlm
from components.models.vlm.qwen2_5_vl import make_tiny
from components.models.vlm.rows import ROWS_ATTENTION
from components.sft.data import Item
from components.sft.speed import peak_tflops

log = logging.getLogger("bench")
GIB = 2**30
WARM_UP, TOO_LARGE, FEWER = 2, 3, 2
ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
# Qwen/Qwen2.5-VL-7B-Instruct's config.json
TEXT: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
}
ROPE = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
VISION: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
CLIP, PRIOR = (32, 12 * 28, 16 * 28), (13, 30, 45)
TINY_CLIP, TINY_PRIOR = (4, 4 * 28, 4 * 28), (5, 6, 6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.step_7b", description="Measure a step of a 7B's shape.")
    parser.add_argument("--tuning", action="append", choices=["full", "lora"], help="one of the two only")
    parser.add_argument("--layers", type=int, default=TEXT["num_hidden_layers"], help="most layers in full tuning")
    parser.add_argument("--steps", type=int, default=7, help="measured steps of each training")
    parser.add_argument("--tiny", action="store_true", help="a tiny twin instead")
    parser.add_argument("--weight", type=float, help="measure one training with this λ here, and print its numbers")
    chosen = parser.parse_args(arguments)
    prepare()
    if chosen.weight is not None:
        try:
            print(json.dumps(measured(chosen.tuning[0], chosen.weight, chosen.layers, chosen.steps, chosen.tiny)))
        except torch.OutOfMemoryError as error:
            log.warning("%s", error)
            return TOO_LARGE
        return 0
    found = list[Row]()
    for tuning in chosen.tuning or ["full", "lora"]:
        for row in rows(tuning, chosen.layers, chosen.steps, chosen.tiny):
            found.append(row)
            log.info("%s: %.3f (%s)", row.name, row.value, row.detail)
    return finish(found, "bench-step", "seconds or ratio")


def rows(tuning: str, most_layers: int, steps: int, tiny: bool) -> Iterator[Row]:
    """Measure one kind of tuning with and without alignment, at the largest depth at which both fit.

    Raises:
        ParameterError: nothing fits.
    """
    full_depth = TEXT["num_hidden_layers"]
    for layers in range(most_layers if tuning == "full" else full_depth, 0, -FEWER):
        aligned = _in_a_process(tuning, 1.0, layers, steps, tiny)
        plain = aligned and _in_a_process(tuning, 0.0, layers, steps, tiny)
        if aligned and plain:
            break
    else:
        raise ParameterError("no depth fits", source=f"tuning {tuning}", remedy="use a larger GPU")
    name = f"{tuning} tuning, {'tiny' if tiny else f'{layers} of {full_depth} layers'}"
    for weight, one in ((1, aligned), (0, plain)):
        yield Row(f"{name}, λ = {weight}: seconds per step", one["seconds"], None, _words(one))
    ratio, bytes_ratio = aligned["seconds"] / plain["seconds"], aligned["peak"] / plain["peak"]
    yield Row(f"{name}: aligned / not aligned, time", ratio, None if tiny else 1.10, "medians")
    yield Row(f"{name}: aligned / not aligned, whole device memory", bytes_ratio, None if tiny else 1.15, "peaks")


def _words(one: dict[str, Any]) -> str:
    mfu = "unknown" if one["mfu"] is None else f"{one['mfu']:.1%}"
    peak, reserved, host = (one[name] / GIB for name in ("peak", "reserved", "host"))
    sizes = f"device {peak:.1f} GiB ({reserved:.1f} reserved), host {host:.1f} GiB"
    spread = f"{min(one['all']):.3f} to {max(one['all']):.3f} s"
    model = f"{one['parameters'] / 1e9:.2f} G parameters, {one['tokens']} tokens"
    return f"{model}, {spread}, {one['flops'] / 1e12:.1f} TFLOP, MFU {mfu}, {sizes}, {one['device']}"


def _in_a_process(tuning: str, weight: float, layers: int, steps: int, tiny: bool) -> dict[str, Any] | None:
    """Measure one training in a process of its own; None where the device is too small for it."""
    command = [sys.executable, "-m", "bench.step_7b", f"--tuning={tuning}", f"--weight={weight}", f"--steps={steps}"]
    command += [f"--layers={layers}", *(["--tiny"] if tiny else [])]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **ALLOCATOR}, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode == TOO_LARGE:
        log.info("%s tuning, λ = %g: %d layers do not fit", tuning, weight, layers)
        return None
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with code {done.returncode}; its error is above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(tuning: str, weight: float, layers: int, steps: int, tiny: bool) -> dict[str, Any]:
    """Train a few steps in this process; return seconds, bytes and FLOPs."""
    device, cuda = processes().device, processes().device.type == "cuda"
    folder = make_tiny(scratch() / "tiny") if tiny else write_config(scratch() / "7b", layers)
    item = make_sample(folder, *(TINY_CLIP if tiny else CLIP), TINY_PRIOR if tiny else PRIOR)

    def random_vlm(folder: Path, dtype: torch.dtype, where: str, rows: bool, weights: bool) -> Vlm:
        """Return what `load_vlm` would, with weights that are made on the device."""
        vlm = load_vlm(folder, dtype, where, rows, weights=False)
        torch.manual_seed(0)
        attention = ROWS_ATTENTION if rows else "sdpa"
        with torch.device(device):
            made = AutoModelForImageTextToText.from_config(vlm.model.config, dtype=dtype, attn_implementation=attention)
        return replace(vlm, model=made.eval())

    with patch("components.sft.loop.load_vlm", random_vlm):
        made = training(folder, processes(), weight, tuning=tuning)
    work = engine_step(made, item if weight else Item(item.example, None))
    for _ in range(WARM_UP):
        work()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = [seconds(work) for _ in range(steps)]
    taken, flops = statistics.median(times), made.flops.of(item.example)
    name = torch.cuda.get_device_name(device) if cuda else "CPU"
    peak = peak_tflops(name)
    return {
        "seconds": taken,
        "all": times,
        "tokens": len(item.example.input_ids),
        "parameters": sum(shape.numel() for shape in made.module.shapes.values()),
        "flops": flops,
        "mfu": None if peak is None else flops / (taken * peak * 1e12),
        "peak": torch.cuda.max_memory_allocated() if cuda else status_bytes("VmHWM"),
        "reserved": torch.cuda.max_memory_reserved() if cuda else 0,
        "host": status_bytes("VmHWM"),
        "device": name,
    }


def write_config(folder: Path, layers: int) -> Path:
    """Write the tiny twin's tokenizer and processor with the 7B's configuration, without weights."""
    config = AutoConfig.from_pretrained(make_tiny(folder))
    text, vision = config.text_config, config.vision_config
    for part, sizes in ((text, TEXT | {"num_hidden_layers": layers}), (vision, VISION)):
        for name, value in sizes.items():
            setattr(part, name, value)
    text.layer_types, text.rope_parameters = ["full_attention"] * layers, ROPE
    config.tie_word_embeddings = text.tie_word_embeddings = False
    config.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
