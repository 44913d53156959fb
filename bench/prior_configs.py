"""The video models and configurations of `bench.prior`, and their priors by the pipeline's own steps on one store.

A configuration is what differs from all heads and words under the pipeline's defaults. Those that share a capture run
one after another and read the same maps from the store, so that only captures cost time.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel

from bench.measure import prepare, workers
from components.cli.look import chain_defaults, extract_priors, model_size
from components.core.artifacts import HeadSelection, PriorSet
from components.core.progress import track
from components.models.registry import resolve
from components.store.entries import Store
from components.synthetic.scenes import write_set

SEED = 9_100_001  # of the videos: no training, validation, smoke or example uses it
TWIN_SEED = 9_100_002  # of the random twin's weights
PARTS = ("transformer", "text_encoder")  # what is trained of a video model, and random in its twin


@dataclass(frozen=True, eq=False)
class Configuration:
    """What differs from all heads and words under the pipeline's defaults, by step; `twin` takes the random model."""

    name: str
    twin: bool = False
    num_steps: int | None = None
    params: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def capture(self) -> str:
        """Configurations that read the same maps have the same."""
        own = {step: self.params[step] for step in ("ddim_inversion", "attention_capture") if step in self.params}
        return f"{self.twin} {self.num_steps} {sorted(own.items())}"


_MHS = {"head_selection": {"mhs": True}}
_MTTI = {"token_selection": {"mtti": True}}
ALL, TWIN = Configuration("all heads and words"), Configuration("random twin", twin=True)
MHS, MTTI = Configuration("MHS", params=_MHS), Configuration("MTTI", params=_MTTI)
DEFAULT = Configuration("MHS and MTTI", params=_MHS | _MTTI)
TAU_MASK = Configuration("MHS, tau = mask", params={"head_selection": {"mhs": True, "tau": "mask"}})
TWO_STEPS, TEN_STEPS = Configuration("2 steps", num_steps=2), Configuration("10 steps", num_steps=10)
NOISE = Configuration("start = noise", params={"attention_capture": {"start": "noise"}})
NO_MEMORY = Configuration("memory off", params={"attention_capture": {"memory": False}})
CURRENT = Configuration("inversion_eval = current", params={"ddim_inversion": {"inversion_eval": "current"}})

GATED = (ALL, TWIN, MHS, MTTI, DEFAULT)
ABLATIONS = (TEN_STEPS, NOISE, NO_MEMORY, CURRENT, TWO_STEPS, TAU_MASK)


@dataclass(frozen=True)
class Extracted:
    """A configuration's prior set, the heads chosen for it with their maps, and the store that holds all."""

    store: Store
    priors: PriorSet
    heads: HeadSelection


def random_twin(model: Path, folder: Path, seed: int = TWIN_SEED) -> Path:
    """Write the model with a freshly initialized transformer and text encoder; VAE and tokenizer stay."""
    shutil.copytree(model, folder, ignore=lambda path, names: PARTS if Path(path) == model else ())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = CogVideoXTransformer3DModel.from_config(CogVideoXTransformer3DModel.load_config(model / PARTS[0]))
        text_encoder = T5EncoderModel(T5Config.from_pretrained(model / PARTS[1]))
    transformer.save_pretrained(folder / PARTS[0])
    text_encoder.save_pretrained(folder / PARTS[1])
    return folder


def extract(
    vdm: str,
    configurations: Sequence[Configuration],
    folder: Path,
    videos: int,
    num_steps: int | None = None,
    processes: int = 2,
) -> dict[Configuration, Extracted]:
    """Compute the priors of every configuration on the same unseen clips of the `scenes` preset.

    Args:
        vdm: the video model: a registry name or a folder.
        configurations: different ones.
        folder: an empty one for clips, twin, store and artifacts.
        videos: number of clips.
        num_steps: of configurations without a number of their own; None: the pipeline's default.
        processes: captures that run side by side, one thread each.
    """
    source, store = folder / "clips", (folder / "store").as_uri()
    size = model_size(vdm)
    write_set(source, "scenes", videos, SEED, num_frames=size["num_frames"])
    own = {"source": str(source), "store": store, "shard": "0/1", "text": "response", "vdm": vdm}
    values = chain_defaults() | own
    values["params_dataset_import"]["processes"] = 1
    values["params_ddim_inversion"] |= {**size, "dtype": "float32", "pictures": 0}
    values["params_attention_capture"]["pictures"] = 0
    values["params_head_selection"]["mhs"] = values["params_token_selection"]["mtti"] = False
    if num_steps is not None:
        values["num_steps"] = num_steps
    twin = (
        random_twin(resolve(vdm, Store(store)).path, folder / "twin")
        if any(one.twin for one in configurations)
        else None
    )
    groups = {
        one.capture: [other for other in configurations if other.capture == one.capture] for one in configurations
    }
    jobs = [[(folder / one.name, _changed(values, one, twin)) for one in group] for group in groups.values()]
    if processes == 1:
        for job in track(jobs, "captures"):
            _run(job)
    else:
        with workers(processes, partial(prepare, "WARNING")) as pool:
            list(track(pool.map(_run, jobs), "captures", len(jobs)))
    return {one: _extracted(Store(store), folder / one.name) for one in configurations}


def _changed(values: dict[str, Any], one: Configuration, twin: Path | None) -> dict[str, Any]:
    """Return the pipeline's arguments of a configuration."""
    changed = deepcopy(values)
    for step, params in one.params.items():
        changed[f"params_{step}"] |= params
    if one.num_steps is not None:
        changed["num_steps"] = one.num_steps
    if one.twin:
        changed["vdm"] = str(twin)
    return changed


def _run(job: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    for folder, values in job:
        extract_priors(folder, values)


def _extracted(store: Store, folder: Path) -> Extracted:
    priors = store.opened(folder / "prior_set" / "priors", PriorSet)
    return Extracted(store, priors, store.opened(folder / "head_selection" / "heads", HeadSelection))
