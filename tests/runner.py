"""Runs one step in this process, as its container would: builds KFP's executor input and reads back where the outputs went."""

import itertools
import json
from pathlib import Path

from components.core.artifacts import load_manifest
from components.core.parameters import Scalars
from components.core.step import execute

_count = itertools.count()


def run_step(step, tmp_path, store, params=None, scalars=None, inputs=None, rerun="0", form="", task="", step_params=None):
    """Execute `step` once and return the path of every output: a folder per artifact, a file per page and output parameter.

    `store` is a URI or a folder; `scalars` override the pipeline's defaults; `inputs` are artifact folders by name, lists for
    collected ones; `step_params` are other steps' parameters, by step (what `plan` takes). Errors come out as the step raised them.
    """
    task = task or step.name
    folder = Path(tmp_path) / f"run-{next(_count):03d}-{task}"
    chosen = step.form(form)
    known = Scalars().model_dump(mode="json")
    values = {name: known[name] for name in chosen.scalars} | {"store": str(store)} | (scalars or {})
    values |= {f"params_{name}": value for name, value in (step_params or {}).items()}
    artifacts = {
        name: {"artifacts": [{"uri": str(path)} for path in (given if isinstance(given, list) else [given])]}
        for name, given in (inputs or {}).items()
    }
    shown = (*step.outputs, *step.pages)
    outputs = {name: folder / name for name in (*shown, *step.values)}
    execute(
        step,
        task,
        {
            "inputs": {"parameterValues": {"params": params or {}, "rerun": rerun, **values}, "artifacts": artifacts},
            "outputs": {
                "artifacts": {name: {"artifacts": [{"name": name, "uri": str(outputs[name]), "metadata": {}}]} for name in shown},
                "parameters": {name: {"outputFile": str(outputs[name])} for name in step.values},
                "outputFile": str(folder / "executor_output.json"),
            },
        },
    )
    return outputs


def metrics(outputs, name="metrics"):
    """A Metrics output as a dictionary."""
    return json.loads(outputs[name].read_bytes())


def published(outputs, name, kind):
    """A published manifest, parsed."""
    return load_manifest(outputs[name], kind)
