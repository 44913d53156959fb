"""A small prior set on real H.264 clips, for tests of the steps that read one: the mover's own mask is the prior.

Words are the caption's, every second one is selected; the grid is the clip's, 5 × 4 × 4.
"""

import json
import re
from itertools import pairwise

import numpy as np
import torch
from safetensors.numpy import load_file

from components.core import artifacts as a
from components.core.records import StepRecord, sha256
from components.core.text import sample_id
from components.media.grids import pool_mask
from components.media.video import probe, read_frames
from components.media.viewing import Viewing
from components.models.tuned import stow
from components.models.vlm.interface import Conversation
from components.store.entries import Store, WorkFolder
from components.store.tensors import pack
from components.synthetic.scenes import write_set
from tests.runner import put_manifest

VIEWING = {"fps": 4.0, "num_frames": 4, "max_pixels": 84 * 84}
QUESTION = "Describe the motion in the video."


def put(store, path, data):
    store.backend.put(path, data)
    return a.Ref(path=path, sha256=sha256(data), bytes=len(data), task="fixture")


def put_work(store, key, role, **tensors):
    data = pack(tensors)
    return put(store, f"fixture/{key}/{role}-{sha256(data)[:16]}.safetensors", data)


def video(store, file):
    info, data = probe(file), file.read_bytes()
    ref = put(store, f"videos/{sha256(data)}.mp4", data)
    fields = {name: getattr(info, name) for name in ("width", "height", "rotation", "duration")}
    return a.Video(file=ref, times=list(info.times), **fields)


def words(text):
    found = []
    for k, match in enumerate(re.finditer(r"\w+", text)):
        span = {"token": f"▁{match[0]}", "field": "response", "start": match.start(), "end": match.end()}
        found.append(a.ScoredPiece(index=k, score=1.0, standardized=0.0, selected=k % 2 == 0, **span))
    return found


def grid(clip):
    edges = np.linspace(0, clip.duration, 6)
    return a.Grid(times=[(float(x), float(y)) for x, y in pairwise(edges)], rows=4, cols=4, box=(0.0, 1.0, 0.0, 1.0))


def line(store, file, mask, text, k):
    clip = video(store, file)
    cells = grid(clip)
    pieces = words(text)
    kept = sum(piece.selected for piece in pieces)
    rng = np.random.default_rng(k)
    density = np.maximum(pool_mask(mask, clip.times, cells)[None] + 0.05 * rng.random((kept, 5, 4, 4)), 0)
    prior = (density / density.mean((1, 2, 3), keepdims=True)).astype(np.float32)
    name = sample_id(clip.id, QUESTION, [], text, [])
    key = sha256(name.encode())[:32]
    sample = a.Sample(id=name, uid=file.stem, question=QUESTION, is_instruction=True, response=text, answer="")
    refs = {
        "statistics": put_work(store, key, "statistics", dfc=torch.zeros(1)),
        "prior": put_work(store, key, "prior", prior=torch.from_numpy(prior)),
        "per_frame": put_work(store, key, "per_frame", per_frame=torch.zeros(len(pieces), 5)),
    }
    sure = a.Confidence(concentration=0.5, dynamics=0.5, value=0.5)
    fields = {"pieces": pieces, "truncated": 0, "heads": [0], "confidence": sure}
    return a.PriorLine(video=clip, sample=sample, key=key, grid=cells, **fields, **refs)


def prior_lines(folder, store_folder, count=6):
    """The lines of a prior set; videos and priors lie in the store."""
    write_set(folder, "scenes", count, seed=7, size=(64, 64), num_frames=17)
    store = Store(str(store_folder))
    made = []
    for k, row in enumerate((folder / "MotionBenchCaption-train/train.jsonl").read_text().splitlines()):
        question = json.loads(row)
        file = folder / "MotionBenchCaption-train/videos" / question["video_path"]
        mask = load_file(folder / "gt" / f"{file.stem}.safetensors")["mover"]
        made.append(line(store, file, mask, question["motion_caption"], k))
    return sorted(made, key=lambda item: item.sample.id)


def prior_set(folder, lines, store):
    """The artifact's folder; its lines lie in the store."""
    record = StepRecord(version="1", params={}, scalars={})
    head = a.HeadRow(head=0, dfc=1, dfc_stderr=0, tcs=1, dsr=1, z=(0, 0, 0), score=0, chosen=1, samples=1)
    made = a.PriorSet(kind="PriorSet", provenance={"prior_set": record}, lines=lines, heads=[head], saturation={})
    return put_manifest(folder, made, store)


def example(vlm, line, store):
    """The sample as tensors; its frames by the family's rule, written out once more."""
    clip, total = line.video, len(line.video.times)
    if vlm.family.name == "InternVL3":
        indices = [int((total - 1) / 4 / 2 + round((total - 1) / 4 * i)) for i in range(4)]
    else:
        count = int(max(4, min(clip.duration * 4.0, total)))
        count -= count % 2 if vlm.family.name == "Qwen2.5-VL" else 0
        indices = [int(i * (total - 1) / (count - 1) + 0.5) for i in range(count)]
    talk = Conversation([], line.sample.question, line.sample.response)
    frames, times = read_frames(store.fetch(clip.file), indices), [clip.times[i] for i in indices]
    return vlm.prepare(talk, frames, times, clip.duration, Viewing(**VIEWING))


def tuned_model(store, folder, provenance, lines):
    """A model's folder in the store as sft leaves it, and its manifest."""
    work = WorkFolder(store, "sft", "1", "f" * 32)
    roles = stow(folder, work)
    work.put("log", "jsonl", json.dumps({"step": 0}).encode())
    entry = work.finish("model", {}, {"roles": roles})
    files, log = [entry.ref(role, "sft") for role in roles], entry.ref("log", "sft")
    named = {"kind": "TunedModel", "provenance": provenance, "key": entry.key}
    return a.TunedModel(**named, files=files, aligner=[], log=log, lines=lines)
