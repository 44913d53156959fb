"""Runs one step in this process, as its container would, with the pipelines' defaults for what a test does not say."""

import itertools
import json
from pathlib import Path

from components.runtime import runner
from components.store.entries import Store

_count = itertools.count()
_stores = {}  # by the folder that a step of this process wrote into


def run_step(step, folder, store, params=None, shared=None, inputs=None, rerun="0", form="", task="", step_params=None):
    """Execute `step` once and return each output's path: a folder per artifact, a file per page and output parameter.

    `store` is a URI or a folder; `shared` overrides the pipeline's defaults; `inputs` are artifact folders by name,
    lists for collected ones; `step_params` are other steps' parameters, by step (what `plan` takes). Errors come out
    as the step raised them.
    """
    task = task or step.name
    model = step.form(form).shared
    values = {"shard": "0/1"} if "shard" in model.model_fields else {}
    values |= model.pipeline_defaults() | {"store": str(store)} | (shared or {})
    values |= {f"params_{name}": value for name, value in (step_params or {}).items()}
    values |= {"params": params or {}, "rerun": rerun}
    folders = {name: given if isinstance(given, list) else [given] for name, given in (inputs or {}).items()}
    out = Path(folder) / f"run-{next(_count):03d}-{task}"
    _stores[out.absolute()] = str(store)
    return runner.run_step(step, out, values, folders, task)


def metrics(outputs, name="metrics"):
    """A Metrics output as a dictionary."""
    return json.loads(outputs[name].read_bytes())


def published(outputs, name, kind):
    """A published manifest, parsed."""
    return load_manifest(outputs[name], kind)


def put_manifest(folder, manifest, store=None):
    """Write an artifact's folder by hand and return it; without a store in version 1, which has its lines inline."""
    if store is None:
        manifest = manifest.model_copy(update={"schema_version": "1"})
    else:
        Store(str(store)).publish(manifest)
        _stores[Path(folder).absolute().parent] = str(store)
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "manifest.json").write_bytes(manifest.to_bytes())
    return folder


def changed(manifest, **fields):
    """The manifest with other values in these fields, validated: a list becomes lines."""
    return type(manifest)(**{**dict(manifest), **fields})


def load_manifest(folder, kind, store=None):
    """The manifest in an artifact's folder; `store` where no step of this process wrote it."""
    return Store(str(store or _stores[Path(folder).absolute().parent])).opened(Path(folder), kind)
