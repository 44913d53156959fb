"""A small finished run in a store of its own: real clips with masks, made-up maps with known truth, all manifests.

`tilt` is how much more density a prior puts on the mover than on static objects: 0 is a prior that knows nothing.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from components.core import artifacts as a
from components.core import records as r
from components.core.records import ModelId, Option, canonical_json, sha256
from components.media.grids import pool_mask
from components.media.video import probe
from components.models.video.causal import causal_grid
from components.report.step import STEP
from components.runtime.runner import run_step
from components.sft.aligner import Aligner
from components.store.entries import Store
from components.store.tensors import pack
from components.synthetic.scenes import write_set
from tests.runner import load_manifest, put_manifest

DESCRIBE = {"question": "Describe the motion in this video in detail.", "is_instruction": True}
VLM, VDM = ModelId(name="qwen2.5-vl-7b", digest="c" * 40), ModelId(name="cogvideox-5b", digest="d" * 40)
BROKEN = r.Failure(unit="broken.mp4", task="dataset_import", reason="no frame could be decoded")
LOW = "coverage 0.31 is below min_coverage=0.5"
LOW_COVERAGE = r.Failure(unit="0123456789abcdef", task="vlm_attention", reason=LOW)


@dataclass
class World:
    """The inputs of the step as folders, and what they were made from."""

    store: Store
    folder: Path
    priors: a.PriorSet
    model: a.TunedModel
    after: a.VlmMaps
    untouched: list
    tuned: list

    def report(self, out: Path, rerun="0", **params):
        """Run the step; the paths of its outputs."""
        named = {"priors": [self.priors], "model": [self.model], "maps": [self.after]}
        named |= {"untouched": self.untouched, "tuned": self.tuned}
        inputs = {}
        for name, manifests in named.items():
            inputs[name] = [out / "inputs" / f"{name}-{index}" for index in range(len(manifests))]
            for folder, manifest in zip(inputs[name], manifests, strict=True):
                put_manifest(folder, manifest, self.store.uri)
        values = {"store": self.store.uri, "store_patience": 1, "params": params, "rerun": rerun}
        return run_step(STEP, out, values, inputs)

    def page(self, outputs):
        """The whole page of a finished step."""
        return self.store.read(load_manifest(outputs["report"], a.Report, self.store.uri).page).decode()


def put(store, path, data, task="fixture"):
    store.backend.put(path, data)
    return r.Ref(path=path, sha256=sha256(data), bytes=len(data), task=task)


def tensors(store, path, **arrays):
    packed = pack({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()})
    return put(store, f"fixture/{path}.safetensors", packed)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def clip(store, file):
    info, data = probe(file), file.read_bytes()
    facts = {name: getattr(info, name) for name in ("width", "height", "rotation", "duration")}
    ref = put(store, f"videos/{sha256(data)}.mp4", data, "dataset_import")
    return r.Video(file=ref, times=list(info.times), **facts)


def pieces_of(text, rng):
    found, at, names = [], 0, text.split()
    scores = np.array([1.9 if word in ("left", "right", "up", "down", "moves") else 1.1 for word in names])
    scores = scores + rng.normal(0, 0.12, len(scores))
    z = (scores - scores.mean()) / scores.std()
    kept = set(np.argsort(-scores)[: -(-len(scores) // 2)].tolist())
    for index, word in enumerate(names):
        start = text.index(word, at)
        at = start + len(word)
        place = {"index": index, "token": f"▁{word}", "field": "response", "start": start, "end": at}
        measured = {"score": float(scores[index]), "standardized": float(z[index]), "selected": index in kept}
        found.append(r.ScoredPiece(**place, **measured))
    return found


def density(map_TFHW):
    return (map_TFHW / map_TFHW.mean((1, 2, 3), keepdims=True)).astype(np.float32)


def smooth_noise(rng, shape):
    noise = rng.random(shape)
    for axis in (-1, -2):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)) / 3
    return noise


def tokenizer(texts):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    return made


def token_map(made, text, pieces):
    kept = [piece for piece in pieces if piece.selected]
    offsets = made.encode(text).offsets
    shared = np.array([[x < p.end and p.start < y for x, y in offsets] for p in kept])
    rows = np.flatnonzero(shared.any(0))
    table = shared[:, rows].astype(np.float32)
    return {"map": table / np.maximum(table.sum(1, keepdims=True), 1), "rows": rows, "covered": table.any(1)}


def records(num_steps=5, align_weight=1.0):
    def step(params=None, scalars=None, **models):
        return r.StepRecord(version="1", params=params or {}, scalars=scalars or {}, models=models)

    trained = {"global_batch": 8, "lr_llm": 1e-5, "epochs": 1, "max_steps": 60}
    return {
        "dataset_import": step({"layout": "auto"}),
        "ddim_inversion": step({"num_frames": 17}, {"num_steps": num_steps}, vdm=VDM),
        "head_selection": step({"scope": "sample", "mhs": True}, {"head_ratio": 0.5}),
        "token_selection": step({"unit": "token", "mtti": True}, {"token_ratio": 0.5}),
        "vlm_attention": step({"min_coverage": 0.5}, {}, vlm=VLM),
        "sft": step(trained, {"align_weight": align_weight, "seed": 1}, vlm=VLM),
        "baseline_eval": step({}, {}, vlm=VLM),
    }


def head_table(rng, heads=8, samples=12):
    """The rows of the table, and the chosen heads."""
    values = np.stack([rng.gamma(2, 0.03, heads), 1 + 4 * rng.random(heads), rng.random(heads)], 1)
    z = (values - values.mean(0)) / values.std(0)
    score, order = z.sum(1), np.argsort(-z.sum(1)).tolist()
    rows = []
    for i, (dfc, tcs, dsr) in enumerate(values):
        measured = {"dfc": dfc, "dfc_stderr": dfc * 0.12, "tcs": tcs, "dsr": dsr, "z": tuple(z[i]), "score": score[i]}
        rows.append(r.HeadRow(head=i, **measured, chosen=samples - order.index(i), samples=samples))
    return rows, sorted(order[: heads // 2])


def log_rows(steps=60):
    about = {"samples": 11, "held_out": 1, "steps": steps, "align_weight": 1.0}
    about |= {"prior_variance": 2.1, "lambda_variance": 2.1}
    yield {"step": 0, **about, "val_ar": 2.6, "val_align": 2.3, "val_loss": 4.9}
    rng = np.random.default_rng(5)
    for step in range(1, steps + 1):
        fade, rate = np.exp(-step / 22), min(step / 3, 0.5 * (1 + np.cos(np.pi * step / steps))) + 1e-4
        row = {"ar": 0.4 + 2.2 * fade + rng.normal(0, 0.06), "align": 0.7 + 1.6 * fade + rng.normal(0, 0.05)}
        row |= {"lr_vision": 2e-6 * rate, "lr_llm": 1e-5 * rate, "lr_aligner": 1e-4 * rate}
        row |= {"rows": 40, "rows_before_response": 12}
        if step % 5 == 0:
            row |= {"grad_ar": 3 * fade + 0.3, "grad_align": 0.5 * fade + 0.05}
        if step % 15 == 0:
            row |= {"val_ar": 0.6 + 2.1 * fade, "val_align": 0.8 + 1.5 * fade}
        yield {"step": step, **{name: float(value) for name, value in row.items()}}


def sample_line(store, root, row, index, made, chosen, tilt, rng, with_mask):
    file = root / "MotionBenchCaption-train/videos" / row["video_path"]
    video, text = clip(store, file), row["motion_caption"]
    grid = causal_grid(video.times, 96, 144, (0.0, 1.0, 0.0, 1.0), 1, 1)
    mask = load_file(root / "gt" / f"{file.stem}.safetensors")
    name = sha256(f"clip {index}".encode())[:16]
    pooled = [pool_mask(mask[part].astype(np.uint8), video.times, grid) for part in ("mover", "objects")]
    mover, objects = map(np.asarray, pooled)
    pieces = pieces_of(text, rng)
    kept, base = sum(piece.selected for piece in pieces), 0.4 + 0.6 * objects
    maps = [smooth_noise(rng, grid.shape) * base + tilt * (1 + 0.5 * rng.random()) * mover for _ in range(kept)]
    prior = density(np.stack(maps))
    per_frame = (1 + 0.2 * rng.random((len(pieces), grid.shape[0]))) * np.array([[piece.score] for piece in pieces])
    frames = np.stack([np.asarray(Image.new("RGB", (96, 64), colour)) for colour in ("#446688", "#888888", "#557799")])
    shared = {
        "video": video,
        "mask": tensors(store, f"{name}/mask", **mask) if with_mask else None,
        "sample": r.Sample(id=name, uid=f"clip {index}", **DESCRIBE, response=text, answer=""),
        "grid": grid,
        "pieces": pieces,
        "truncated": 0,
        "heads": chosen,
        "statistics": tensors(store, f"{name}/statistics", dfc=rng.random(8).astype(np.float32)),
        "prior": tensors(store, f"{name}/prior", prior=prior),
        "per_frame": tensors(store, f"{name}/frames", per_frame=per_frame.astype(np.float32)),
        "confidence": r.Confidence(concentration=0.6, dynamics=0.3, value=float(np.clip(rng.beta(4, 5), 0, 1))),
        "pictures": {
            "reconstruction": put(store, f"fixture/{name}/reconstruction.png", png(np.concatenate(frames, 1))),
            "heads": put(store, f"fixture/{name}/heads.png", png((rng.random((64, 400)) * 255).astype(np.uint8))),
        },
    }
    line = a.PriorLine(key=f"{index:032x}", **shared)
    words = tensors(store, f"{name}/token_map", **token_map(made, text, pieces))
    valid = np.ones(grid.shape, bool)
    valid[:, -1:] = False
    valid[:, :, :1] = False

    covered = np.arange(kept) != (1 if index % 3 == 0 else -1)  # a word of every third sample has no counterpart

    def seen(task, pull):
        values = (1 - pull) * density(np.stack([smooth_noise(rng, grid.shape) for _ in range(kept)])) + pull * prior
        shown = (values * valid * covered[:, None, None, None]).astype(np.float32)
        ref = tensors(store, f"{name}/{task}", map=shown, valid=valid, covered=covered)
        distance, coverage = float(((values - prior) ** 2)[covered][:, valid].mean()), float(0.7 + 0.3 * rng.random())
        return a.VlmLine(**dict(line), token_map=words, coverage=coverage, vlm_map=ref, distance=distance)

    return line, seen("vlm_attention", 0.05), seen("tuned_attention", 0.55)


def json_lines(path):
    return [json.loads(row) for row in path.read_text().splitlines()]


def item_lines(store, root, rng, gain):
    """Each question's items of the untouched and of the tuned model, which is right more often."""
    found = [], []
    for row in json_lines(root / "MotionBench/video_info.meta.jsonl"):
        video = clip(store, root / "MotionBench/self-collected" / row["video_path"])
        for qa in (qa for qa in row["qa"] if qa["answer"] != "NA"):
            question, *options = qa["question"].split("\n")
            asked = {"question": question, "options": [Option(letter=o[0], text=o[3:]) for o in options]}
            asked |= {"question_type": row["question_type"], "protocol": "motionbench", "is_instruction": False}
            name = {"id": sha256(qa["uid"].encode())[:16], "uid": qa["uid"]}
            sample = r.Sample(**name, **asked, response="", answer=qa["answer"])
            first = rng.random() < 0.42
            second = first if rng.random() > gain else rng.random() < 0.75
            other = next(o.letter for o in sample.options if o.letter != sample.answer)
            for lines, right, words in zip(found, (first, second), ("{}", "The answer is {}."), strict=True):
                parsed = sample.answer if right else ("" if rng.random() < 0.1 else other)
                reply = words.format(parsed) if parsed else "I cannot tell from the video."
                line = {"video": video, "sample": sample, "key": sha256(sample.id.encode())[:32]}
                line |= {"reply": reply, "parsed": parsed, "rule": "letter" if words == "{}" else "phrase"}
                line |= {"correct": bool(right), "official_correct": bool(right)}
                lines.append(a.ItemResult(**line, frames=list(range(0, len(video.times), 4))))
    return found


def build(folder, *, tilt=2.5, clips=12, questions=24, with_mask=True, seed=3):
    """The whole run."""
    store, rng = Store(str(folder / "store")), np.random.default_rng(seed)
    write_set(folder / "scenes", "scenes", clips, seed, size=(96, 144))
    write_set(folder / "bench", "bench", questions, seed, size=(96, 144))
    captions = json_lines(folder / "scenes/MotionBenchCaption-train/train.jsonl")
    made, (heads, chosen) = tokenizer([row["motion_caption"] for row in captions] * 3), head_table(rng)
    scenes, provenance, steps = folder / "scenes", records(), list(records())
    found = [sample_line(store, scenes, row, i, made, chosen, tilt, rng, with_mask) for i, row in enumerate(captions)]
    prior_lines, before_lines, after_lines = zip(*sorted(found, key=lambda lines: lines[0].sample.id), strict=True)
    known = {"provenance": {name: provenance[name] for name in steps[:4]}, "left_out": [BROKEN], "heads": heads}
    saturation = {"tcs": 1.0, "dsr": 0.5}
    priors = a.PriorSet(kind="PriorSet", **known, saturation=saturation, lines=list(prior_lines))
    torch.manual_seed(1)
    aligner = Aligner("local")
    torch.nn.init.normal_(aligner.write.weight, std=0.4)
    weights = {name: value.detach() for name, value in aligner.state_dict().items()}
    log = b"".join(canonical_json(row) + b"\n" for row in log_rows())
    known = {"provenance": {name: provenance[name] for name in steps[:6]}}
    model = a.TunedModel(
        kind="TunedModel",
        **known,
        key="f" * 32,
        files=[put(store, f"fixture/model/tokenizer-{'0' * 16}.json", made.to_str().encode())],
        aligner=[put(store, "fixture/model/aligner.safetensors", pack(weights))],
        log=put(store, "fixture/model/log.jsonl", log),
        lines=list(before_lines),
        left_out=[BROKEN, LOW_COVERAGE],
    )
    after = a.VlmMaps(kind="VlmMaps", **known, shard="0/1", lines=list(after_lines[:8]))
    shared = {"kind": "EvalResult", "provenance": provenance, "protocol": "motionbench", "scores": []}
    evaluated = zip(("untouched", "tuned"), item_lines(store, folder / "bench", rng, 0.5), strict=True)
    untouched, tuned = (a.EvalResult(**shared, model=name, lines=lines) for name, lines in evaluated)
    return World(store, folder, priors, model, after, [untouched], [tuned])
