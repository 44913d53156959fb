"""Step 6 · sft: fine-tune the VLM so that it answers and, for words of motion, attends where the prior does.

One piece of work: its key reads every sample's token map. The tuned model is kept file by file as a folder that plain
`from_pretrained` opens, with the aligner and the training log beside it. What a leakage check excludes is left out.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from components.core.artifacts import LeakageReport, TunedModel, VlmLine, VlmMaps
from components.core.errors import DataError, ParameterError
from components.core.records import Failure, Json, canonical_json, sha256
from components.models.registry import resolve
from components.pages.training_log import read_log
from components.runtime.context import Context
from components.runtime.declaration import Form, Step
from components.runtime.launch import raise_left_error
from components.runtime.parameters import AlignWeight, Seed, SharedParams, Vlm
from components.sft.page import page
from components.sft.settings import Params, SftSettings
from components.store.entries import WorkFolder
from components.vlm_attention.settings import View


class Shared(SharedParams):
    """The shared parameters that the fine-tuning reads."""

    vlm: Vlm
    align_weight: AlignWeight
    seed: Seed


def run(context: Context[Params, Shared]) -> None:
    """Train unless this work is remembered, and publish the tuned model."""
    shards = context.shards("maps", VlmMaps)
    lines = [line for shard in shards for line in shard.lines]
    lines.sort(key=lambda line: line.sample.id)
    leakage = context.input("leakage", LeakageReport) if context.has("leakage") else None
    whole = len(lines)
    lines = lines if leakage is None else _unasked(context, lines, leakage)
    excluded = whole - len(lines)
    lines = _fitting(context, lines)
    if not lines:
        remedy = "see what was left out and why (vlm_attention, leakage_check)"
        raise DataError("no samples to train on", source="maps", remedy=remedy)
    model = resolve(context.shared.vlm, context.store)
    context.models["vlm"] = model.id
    seen = context.provenance["vlm_attention"].models["vlm"]
    if seen.digest != model.id.digest:  # token maps hold positions in one model's sequence
        problem = f"the token maps are of {seen.name} ({seen.digest[:12]}), not of this model ({model.id.digest[:12]})"
        raise ParameterError(problem, source="vlm", remedy="give sft the model that vlm_attention read")
    reads: Json = {"lines": sorted([line.key, line.token_map.sha256] for line in lines)}
    if weights := sorted([line.sample.id, line.sample.weight] for line in lines if line.sample.weight != 1):
        reads["weights"] = weights
    entry = context.once("model", reads, lambda work: _train(context, work, lines, model.path))
    if context.counts["computed"]:
        from components.sft.state import ResumeStates

        ResumeStates(context.store.backend, entry.key).clear()
    files, adapter = ([entry.ref(role, context.task) for role in entry.numbers[kind]] for kind in ("roles", "adapter"))
    aligner = [entry.ref("aligner", context.task)] if "aligner" in entry.files else []
    log = entry.ref("log", context.task)
    rows = read_log(context.store.read(log))
    fields = {"key": entry.key, "files": files, "aligner": aligner, "adapter": adapter, "log": log}
    fields |= {"samples": len(lines), "videos": len({line.video.id for line in lines})}
    fields |= {"maps": [shard.digest for shard in shards], "leakage": leakage and leakage.counts(excluded)}
    context.publish("model", context.manifest(TunedModel, **fields))
    context.page("curve", page(rows, model.id.name))
    context.metrics(**{name: rows[-1][name] for name in ("ar", "align", "val_ar", "val_align") if name in rows[-1]})


def _unasked(context: Context[Params, Shared], lines: list[VlmLine], leakage: LeakageReport) -> list[VlmLine]:
    """Return the lines of videos that no benchmark asks about, as far as the check excludes; the others are listed."""
    reasons = leakage.reasons
    for line in lines:
        if (reason := reasons.get(line.video.id)) is not None:
            context.note_left_out([Failure(unit=line.sample.id, task=context.task, reason=f"leak: {reason}")])
    return [line for line in lines if line.video.id not in reasons]


def _fitting(context: Context[Params, Shared], lines: list[VlmLine]) -> list[VlmLine]:
    """Return the lines of at most `max_tokens` tokens; the others are left out, and listed.

    Raises:
        DataError: a line does not say how many tokens it has, as those of an older step 5.
    """
    most = context.params.max_tokens
    if most is None:
        return lines
    if unknown := [line.sample.id for line in lines if line.tokens is None]:
        problem = f"{len(unknown)} samples do not say their tokens, {unknown[0]} first"
        raise DataError(problem, source=f"max_tokens={most}", remedy="compute vlm_attention again")
    long = [line for line in lines if (line.tokens or 0) > most]
    for line in long:
        reason = f"{line.tokens} tokens, max_tokens={most}"
        context.note_left_out([Failure(unit=line.called, task=context.task, reason=reason)])
    return [line for line in lines if (line.tokens or 0) <= most]


def _train(context: Context[Params, Shared], work: WorkFolder, lines: list[VlmLine], folder: Path) -> Json:
    from components.models.tuned import stow
    from components.sft.loop import Job
    from components.sft.state import ResumeStates

    view = context.provenance["vlm_attention"].params
    seen = {name: view[name] for name in View.model_fields}
    settings = SftSettings.model_validate(context.params.model_dump() | seen)
    shared, store, model = context.shared.model_dump(include={"align_weight", "seed"}), context.store.uri, str(folder)
    # a forced training begins anew, but its own retries, which have the same nonce, go on
    attempt = sha256(context.rerun.encode())[:16] if context.forced else ""
    if attempt:
        ResumeStates(context.store.backend, work.key, attempt).begin()
    with tempfile.TemporaryDirectory(prefix="sft-") as scratch:
        state: Json = {"key": work.key, "attempt": attempt, "store_patience": context.store.patience}
        _launch(Job(settings=settings, vlm=model, store=store, lines=lines, out=scratch, **state, **shared))
        out = Path(scratch)
        roles = {"roles": stow(out / "model", work)}
        roles["adapter"] = stow(out / "adapter", work) if (out / "adapter").is_dir() else []
        if (aligner := out / "aligner.safetensors").is_file():
            work.put("aligner", "safetensors", aligner.read_bytes())
        work.put("log", "jsonl", (out / "log.jsonl").read_bytes())
    return roles


def _launch(job: Any) -> None:
    """Train on other nodes where the pipeline was compiled so, else here: in a process per GPU, or in this one alone.

    Raises:
        MotionEnhancerError: what a training process ended with, or that SIGTERM ended it.
    """
    import torch

    from components.sft.launch import listening, run_processes
    from components.sft.loop import train
    from components.sft.nodes import MANIFEST, train_on_nodes

    manifest, settings = os.environ.get(MANIFEST), job.settings
    count = settings.processes or max(1, torch.cuda.device_count())
    if manifest is None and count == 1:
        train(job)
        return
    out = Path(job.out)
    path = out / "job.json"
    path.write_bytes(canonical_json(job.model_dump(mode="json")))
    if manifest is None:
        code = run_processes(count, ["-m", "components.sft.loop", str(path)], out, settings.stop_grace)
    else:
        with listening():  # SIGTERM removes the TrainJob
            code = train_on_nodes(json.loads(manifest), path, f"sft-{job.key}")
    raise_left_error(out)
    if code:
        where = "above" if manifest is None else "in its pod"
        raise RuntimeError(f"a training process ended with code {code}; its traceback is {where}")


STEP = Step(
    name="sft",
    version="4",
    title="6 · Fine-tuning with alignment",
    unit="step",
    device="gpu",
    params=Params,
    shared=Shared,
    run=run,
    inputs={"maps": [VlmMaps], "leakage": LeakageReport},
    outputs={"model": TunedModel},
    pages={"metrics": "Metrics", "curve": "HTML"},
    forms={"": Form(Shared, ("maps",)), "checked": Form(Shared, ("maps", "leakage"))},
)
