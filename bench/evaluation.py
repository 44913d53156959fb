"""Rows of the evaluation: questions that share their clip against one item at a time, and as many items as FAVOR-Bench.

Eight clips of 60 s, 640 × 480, with three questions each; both sides load the tiny twin, decode the clips at 1 frame
per second and write 16 tokens per item. The reference reads an item as the evaluation did before: it decodes the clip,
lays the whole sequence out and reads it, for every item anew. Both are shown to give the same replies first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch

from bench import favor
from bench.measure import QUIET, time_ratio
from bench.reading import clip
from bench.table import ROOT, Row
from components.benchmark_eval.step import STEP, items
from components.benchmarks.interface import get_benchmark
from components.core.artifacts import EvalResult, VideoDataset, VideoLine, load_manifest
from components.core.records import Json, Option, Ref, Sample, StepRecord, Video, sha256
from components.core.text import sample_id
from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm.example import Example, collate
from components.models.vlm.interface import conversation
from components.models.vlm.model import Vlm, open_vlm
from components.runtime.runner import run_step
from components.store.entries import Store

MODEL, CLIPS, SECONDS, QUESTIONS = "tiny-qwen2.5-vl", 8, 60, 3
BENCHMARK = get_benchmark("motionbench")


def rows(pairs: int = 2) -> Iterator[Row]:
    """Measure the evaluation's rows of the table."""
    ensure_tiny(MODEL)
    with tempfile.TemporaryDirectory() as name:
        folder, number = Path(name), count()
        data, store = write(folder), Store(str(folder / "store"))

        def shared() -> dict[str, str]:
            for work in (STEP.name, "indexes"):
                shutil.rmtree(folder / "store" / work, ignore_errors=True)
            shutil.rmtree(folder / "store" / f"{STEP.name}_pictures", ignore_errors=True)
            outputs = run_step(STEP, folder / f"run-{next(number)}", _values(folder), {"videos": [folder / "artifact"]})
            return {line.sample.id: line.reply for line in store.opened(outputs["result"], EvalResult).lines}

        def anew() -> dict[str, str]:
            return one_by_one(data, store)

        if shared() != anew():
            raise RuntimeError("the two evaluations do not give the same replies")
        label = f"{CLIPS} clips of {SECONDS} s, {QUESTIONS} questions each, items/s / one item at a time"
        yield replace(time_ratio(label, 2.5, anew, shared, pairs, warm_up=False), test="value >")
    yield from _favor()


def _favor() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact = favor.make(folder)
        start = time.perf_counter()
        command = [sys.executable, "-m", "bench.favor", *favor.request(folder, artifact, folder / "out")]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"bench.favor ended with code {done.returncode}:\n{done.stderr[-3000:]}")
        took, found = time.perf_counter() - start, json.loads(done.stdout.splitlines()[-1])
        n = len(load_manifest(folder / "out" / "result", EvalResult).lines)
    detail = f"{n} items on {favor.VIDEOS} clips, a stub for a model: the task took {took:.0f} s"
    yield Row(f"{n} items: parsing and statistics, seconds", found["scoring_s"], 5.0, detail)
    yield Row(f"{n} items: peak memory of the task, MB", found["peak_bytes"] / 1e6, 500.0, "without torch")


def write(folder: Path) -> VideoDataset:
    """Write clips and items: the store, and the data set's artifact."""
    path, info = clip(folder / "clip.mp4", SECONDS)
    store, lines = Store(str(folder / "store")), []
    for k in range(CLIPS):
        data = path.read_bytes() + (16).to_bytes(4, "big") + b"free" + k.to_bytes(8, "big")  # a clip of its own
        ref = Ref(path=f"videos/{sha256(data)}.mp4", sha256=sha256(data), bytes=len(data), task="benchmark_import")
        store.backend.put(ref.path, data)
        shown: Json = {"width": info.width, "height": info.height, "rotation": 0, "duration": info.duration}
        video = Video(file=ref, times=list(info.times), **shown)
        lines.append(VideoLine(video=video, samples=[_item(video, k) for k in range(QUESTIONS)]))
    record = StepRecord(version="1", params={}, scalars={})
    data_set = VideoDataset(kind="VideoDataset", provenance={"benchmark_import": record}, lines=lines)
    store.publish(data_set)
    (folder / "artifact").mkdir()
    (folder / "artifact" / "manifest.json").write_bytes(data_set.to_bytes())
    return data_set


def _item(video: Video, number: int) -> Sample:
    words = zip("ABCD", ("left", "right", "up", "down"), strict=True)
    options = [Option(letter=letter, text=word) for letter, word in words]
    question = f"Where does the ground drift, asked for the {number + 1}. time?"
    texts: Json = {"question": question, "options": options, "response": "", "is_instruction": False, "answer": "A"}
    kind, name = next(iter(BENCHMARK.types)), sample_id(video.id, question, options, "", [])
    return Sample(id=name, uid=f"{video.id[:8]}#{number}", question_type=kind, protocol=BENCHMARK.name, **texts)


def _values(folder: Path) -> Json:
    values = STEP.form("untouched").shared.pipeline_defaults() | {"store": str(folder / "store"), "vlm": MODEL}
    return values | {"benchmark": f"{BENCHMARK.name}=x", "params": {}, "rerun": "0"}


def one_by_one(data: VideoDataset, store: Store) -> dict[str, str]:
    """Return the replies, each from a clip that is decoded and a sequence that is read for this item alone."""
    vlm, found = open_vlm(ensure_tiny(MODEL), rows=False), {}
    for unit in items(data, BENCHMARK):
        prompt, video = BENCHMARK.ask(unit.sample.question, unit.sample.options), unit.line.video
        with store.borrowed(video.file) as path:
            example, _ = vlm.read(conversation(unit.sample, prompt), video, path, Viewing.model_validate({}))
        found[unit.sample.id] = _reply(vlm, example, BENCHMARK.max_new_tokens)
    return found


@torch.inference_mode()
def _reply(vlm: Vlm, example: Example, most: int) -> str:
    inputs, reply = vlm.arguments(collate([example])), list[int]()
    out = vlm.model(**inputs, use_cache=True, logits_to_keep=1)
    while len(reply) < most and (token := int(out.logits[0, -1].argmax())) not in vlm.stops:
        reply.append(token)
        following = {"input_ids": torch.tensor([[token]], device=vlm.device)}
        following["position_ids"] = inputs["position_ids"][..., -1:] + len(reply)
        following["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, len(reply)), value=1)
        out = vlm.model(**following, past_key_values=out.past_key_values, use_cache=True)
    return str(vlm.tokenizer.decode(reply, skip_special_tokens=True))
