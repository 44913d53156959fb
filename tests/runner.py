"""Runs one step in this process, as its container would, with the pipelines' defaults for what a test does not say."""

import itertools
import json
from pathlib import Path

from components.core.artifacts import load_manifest
from components.runtime import runner

_count = itertools.count()


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
    return runner.run_step(step, Path(folder) / f"run-{next(_count):03d}-{task}", values, folders, task)


def metrics(outputs, name="metrics"):
    """A Metrics output as a dictionary."""
    return json.loads(outputs[name].read_bytes())


def published(outputs, name, kind):
    """A published manifest, parsed."""
    return load_manifest(outputs[name], kind)
