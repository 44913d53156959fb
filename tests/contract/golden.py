"""The numbers of each step on a tiny synthetic set, and its version; `python -m tests.contract.golden` writes them.

Every numeric step runs once in this process, on tiny models whose weights follow from a seed. Nothing here depends on
the order of sample ids, which another build of the video encoder would change: all rows are captured, a training step
takes all samples, lines are sorted by uid.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from components.core import artifacts as a
from components.pages.training_log import read_log
from components.runtime.declaration import declared
from components.steps import STEPS
from components.store.entries import Store
from components.store.tensors import unpack
from components.synthetic.scenes import write_set
from tests.chain import Chain
from tests.runner import published
from tests.vlm_attention.made import VIEWING

FILE = Path(__file__).with_name("golden.json")
COMMAND = "python -m tests.contract.golden"
SAMPLES = 2
SFT = {"global_batch": SAMPLES, "max_steps": 3, "held_out": 0.0, "lr_vision": 1e-3, "lr_llm": 1e-3, "warmup": 0.0}
SFT |= {"norms_every": 2, "gradient_checkpointing": False}


def measure(folder):
    """Run the steps in `folder`; returns each one's version and numbers."""
    torch.set_num_threads(1)
    folder = Path(folder)
    write_set(folder / "scenes", "scenes", SAMPLES, seed=11)
    write_set(folder / "bench", "bench", 1, seed=12, num_frames=9)
    store = Store((folder / "store").as_uri())
    shared = {"shards": 1, "vlm": "tiny-qwen2.5-vl", "benchmark": "motionbench=./bench"}
    chain = Chain(folder, store.uri, folder / "scenes", **shared)
    videos = chain.task("dataset_import", form="training")["videos"]
    trajectories = chain.task("ddim_inversion", {"videos": videos}, shard="0/1")["trajectories"]
    maps = chain.task("attention_capture", {"trajectories": trajectories}, shard="0/1", rows=512)["maps"]
    heads = chain.task("head_selection", {"maps": [maps]})["heads"]
    prior = chain.task("token_selection", {"heads": heads}, shard="0/1")["prior"]
    priors = chain.task("prior_set", {"shards": [prior]}, form="collected")["priors"]
    seen = chain.task("vlm_attention", {"priors": priors}, form="frozen", shard="0/1", viewing=VIEWING)["maps"]
    chain.task("sft", {"maps": [seen]}, **SFT)
    benchmarks = Chain(folder, store.uri, "", benchmarks=[f"motionbench={folder / 'bench'}"])
    asked = benchmarks.task("dataset_import", form="benchmark", allow_subset=True)["videos"]
    chain.task("benchmark_eval", {"videos": asked}, form="untouched", viewing=VIEWING)
    return {
        name: {"version": declared(name).version, "numbers": numbers(store, chain.outputs[name][0])}
        for name, numbers in NUMBERS.items()
    }


def summary(values):
    """Mean, spread and three entries: a change of scale, of place or of order shows in one of them."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return [float(x) for x in (flat.mean(), flat.std(), *flat[[0, len(flat) // 2, -1]])]


def tensors(store, ref):
    """Summaries of a safetensors file, by tensor."""
    return {name: summary(value.double()) for name, value in sorted(unpack(store.read(ref)).items())}


def first(outputs, name, kind):
    """The line with the smallest uid."""
    return min(published(outputs, name, kind).lines, key=uid)


def uid(line):
    """A sample's uid, or that of a video's first sample."""
    return line.sample.uid if hasattr(line, "sample") else min(sample.uid for sample in line.samples)


def dataset_import(store, outputs):
    lines = sorted(published(outputs, "videos", a.VideoDataset).lines, key=uid)
    return {
        "videos": [[line.video.width, line.video.height, line.video.duration, len(line.video.times)] for line in lines],
        "words": [sample.response for line in lines for sample in line.samples],
        "mask": tensors(store, lines[0].mask),
    }


def ddim_inversion(store, outputs):
    line = first(outputs, "trajectories", a.Trajectories)
    return {"frames": line.frames, **tensors(store, line.latents)}


def attention_capture(store, outputs):
    line = first(outputs, "maps", a.AttentionMaps)
    pieces = [piece.token for piece in store.pieces(line)]
    return {"pieces": pieces, **tensors(store, line.maps), **tensors(store, line.statistics)}


def head_selection(store, outputs):
    heads = published(outputs, "heads", a.HeadSelection).heads
    return {name: [float(getattr(row, name)) for row in heads] for name in ("dfc", "tcs", "dsr", "score", "chosen")}


def token_selection(store, outputs):
    line = first(outputs, "prior", a.MotionPrior)
    pieces = store.pieces(line)
    selected, scores = [piece.selected for piece in pieces], [piece.score for piece in pieces]
    return {"scores": scores, "selected": selected, "confidence": line.confidence.value, **tensors(store, line.prior)}


def vlm_attention(store, outputs):
    line = first(outputs, "maps", a.VlmMaps)
    words, seen = tensors(store, line.token_map), tensors(store, line.vlm_map)
    return {"distance": line.distance, "tokens": line.tokens, "token_map": words, "vlm_map": seen}


def sft(store, outputs):
    rows = read_log(store.read(published(outputs, "model", a.TunedModel).log))
    names = ("ar", "align", "grad_ar", "grad_align", "lr_llm")
    return {name: [row[name] for row in rows if name in row] for name in names}


def benchmark_eval(store, outputs):
    lines = sorted(published(outputs, "result", a.EvalResult).lines, key=uid)
    return {"replies": {line.sample.uid: [line.reply, line.parsed, line.frames] for line in lines}}


NUMBERS = {name: globals()[name] for name in STEPS if name in globals()}
# which step's numbers each step works on
BEFORE = dict(zip(NUMBERS, (None, *NUMBERS), strict=False)) | {"benchmark_eval": "dataset_import"}


def rounded(value):
    """Six digits are plenty beside the test's tolerance, and readable in a diff."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def written(measured):
    """The file's text: a line for each of a step's numbers."""
    steps = []
    for name, found in measured.items():
        values = {key: json.dumps(rounded(value), ensure_ascii=False) for key, value in found["numbers"].items()}
        numbers = ",\n".join(f"   {json.dumps(key)}: {value}" for key, value in values.items())
        version = json.dumps(found["version"])
        steps.append(f' {json.dumps(name)}: {{"version": {version}, "numbers": {{\n{numbers}\n }}}}')
    return "{\n" + ",\n".join(steps) + "\n}\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        FILE.write_text(written(measure(scratch)), encoding="utf-8")
