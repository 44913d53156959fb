"""Step 6 · sft: fine-tune the VLM so that it answers and, for words of motion, attends where the prior does.

One piece of work: its key reads every sample's token map. The tuned model is kept file by file as a folder that plain
`from_pretrained` opens, with the aligner and the training log beside it. What a leakage check excludes is left out.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.core.artifacts import LeakageReport, TunedModel, VlmLine, VlmMaps
from components.core.errors import DataError, ParameterError
from components.core.records import Failure, Json, canonical_json, sha256
from components.models.registry import ResolvedModel, resolve
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
    shards, leakage, chosen, model = _given(context)

    def kept() -> Iterator[VlmLine]:
        return (line for shard in shards for line in shard.lines if line.key in chosen.token_maps)

    entry = context.once("model", chosen.reads(), lambda work: _train(context, work, kept(), model.path))
    if context.counts["computed"]:
        from components.sft.state import ResumeStates

        ResumeStates(context.store.backend, entry.key).clear()
    files, adapter = ([entry.ref(role, context.task) for role in entry.numbers[kind]] for kind in ("roles", "adapter"))
    aligner = [entry.ref("aligner", context.task)] if "aligner" in entry.files else []
    log = entry.ref("log", context.task)
    rows = read_log(context.store.read(log))
    fields = {"key": entry.key, "files": files, "aligner": aligner, "adapter": adapter, "log": log}
    fields |= {"samples": len(chosen.token_maps), "videos": len(chosen.videos)}
    fields |= {"maps": [shard.digest for shard in shards], "leakage": leakage and leakage.counts(chosen.leaked)}
    context.publish("model", context.manifest(TunedModel, **fields))
    context.page("curve", page(rows, model.id.name))
    context.metrics(**{name: rows[-1][name] for name in ("ar", "align", "val_ar", "val_align") if name in rows[-1]})


def _given(
    context: Context[Params, Shared],
) -> tuple[list[VlmMaps], LeakageReport | None, Chosen, ResolvedModel]:
    """Return the shards, the leakage report, the samples to train on, and the model."""
    shards = context.shards("maps", VlmMaps) if context.has("maps") else [context.input("joined", VlmMaps)]
    leakage = context.input("leakage", LeakageReport) if context.has("leakage") else None
    chosen = _chosen(context, shards, {} if leakage is None else leakage.reasons)
    model = resolve(context.shared.vlm, context.store)
    context.models["vlm"] = model.id
    seen = context.provenance["vlm_attention"].models["vlm"]
    if seen.digest != model.id.digest:  # token maps hold positions in one model's sequence
        problem = f"the token maps are of {seen.name} ({seen.digest[:12]}), not of this model ({model.id.digest[:12]})"
        raise ParameterError(problem, source="vlm", remedy="give sft the model that vlm_attention read")
    return shards, leakage, chosen, model


def training_key(context: Context[Params, Shared]) -> str:
    """Return the key of the training."""
    _, _, chosen, _ = _given(context)
    return context.key(chosen.reads())


@dataclass
class Chosen:
    """The samples to train on: what the training's key and its manifest say of them."""

    token_maps: dict[str, str] = field(default_factory=dict)  # sha256 by the line's key
    weights: list[list[Any]] = field(default_factory=list)
    videos: set[str] = field(default_factory=set)
    leaked: int = 0

    def reads(self) -> Json:
        """Return what the training reads."""
        found: Json = {"lines": sorted([key, digest] for key, digest in self.token_maps.items())}
        return found | ({"weights": sorted(self.weights)} if self.weights else {})


def _chosen(context: Context[Params, Shared], shards: Sequence[VlmMaps], leaks: Mapping[str, str]) -> Chosen:
    """Return the samples of at most `max_tokens` tokens whose videos are not in `leaks`; the others are listed.

    Raises:
        DataError: none is left, or a line does not say how many tokens it has, as those of an older step 5.
    """
    chosen, most, unknown = Chosen(), context.params.max_tokens, list[str]()
    for line in (line for shard in shards for line in shard.lines):
        if (leak := leaks.get(line.video.id)) is not None:
            chosen.leaked += 1
            context.note_left_out([Failure(unit=line.sample.id, task=context.task, reason=f"leak: {leak}")])
        elif most is not None and line.tokens is None:
            unknown.append(line.sample.id)
        elif most is not None and (line.tokens or 0) > most:
            reason = f"{line.tokens} tokens, max_tokens={most}"
            context.note_left_out([Failure(unit=line.called, task=context.task, reason=reason)])
        else:
            chosen.token_maps[line.key] = line.token_map.sha256
            chosen.videos.add(line.video.id)
            if line.sample.weight != 1:
                chosen.weights.append([line.sample.id, line.sample.weight])
    if unknown:
        problem = f"{len(unknown)} samples do not say their tokens, {min(unknown)} first"
        raise DataError(problem, source=f"max_tokens={most}", remedy="compute vlm_attention again")
    if not chosen.token_maps:
        remedy = "see what was left out and why (vlm_attention, leakage_check)"
        raise DataError("no samples to train on", source="maps", remedy=remedy)
    return chosen


def _train(context: Context[Params, Shared], work: WorkFolder, lines: Iterable[VlmLine], folder: Path) -> Json:
    from components.models.tuned import stow
    from components.sft.lines import write_lines
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
        write_lines(Path(scratch), lines)
        state: Json = {"key": work.key, "attempt": attempt, "store_patience": context.store.patience}
        _launch(Job(settings=settings, vlm=model, store=store, lines=scratch, out=scratch, **state, **shared))
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
    inputs={"maps": [VlmMaps], "joined": VlmMaps, "leakage": LeakageReport},
    outputs={"model": TunedModel},
    pages={"metrics": "Metrics", "curve": "HTML"},
    work=training_key,
    forms={
        "": Form(Shared, ("maps",)),
        "checked": Form(Shared, ("maps", "leakage")),
        "joined": Form(Shared, ("joined", "leakage")),
    },
)
