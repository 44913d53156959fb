"""KFP's side of a task: the executor input that its launcher hands over, and the answer that it reads back.

Artifacts lie where the launcher mounts or copies them (`/minio/…`, `/s3/…`, `/gcs/…`) or at a plain path under
kfp.local.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.records import Json, canonical_json
from components.runtime.declaration import Form, Step


@dataclass(frozen=True)
class Request:
    """The inputs of one task, read from KFP's executor input."""

    form: Form
    params: Json
    shared: Json
    rerun: str
    inputs: dict[str, list[Path]]
    step_params: dict[str, Json]

    @classmethod
    def parse(cls, step: Step[Any], executor_input: Json) -> Request:
        """Split KFP's parameter values into step parameters, shared parameters and the rerun nonce."""
        inputs = executor_input.get("inputs", {})
        values = dict(inputs.get("parameterValues", {}))
        params, rerun = values.pop("params", {}), str(values.pop("rerun", "0"))
        artifacts = {
            name: [Path(_local_path(item)) for item in entry.get("artifacts", [])]
            for name, entry in inputs.get("artifacts", {}).items()
        }
        form = step.form_for([*values, *artifacts])
        step_params = {name: values.pop(f"params_{name}") for name in form.planned if f"params_{name}" in values}
        return cls(form, params, values, rerun, artifacts, step_params)


def _local_path(item: Json) -> str:
    """Return where KFP's launcher puts an artifact inside the container."""
    if custom := item.get("customPath"):
        return str(custom)
    uri = str(item["uri"])
    for scheme, folder in (("minio://", "/minio/"), ("s3://", "/s3/"), ("gs://", "/gcs/")):
        if uri.startswith(scheme):
            return folder + uri[len(scheme) :]
    return uri.removeprefix("file://")


class Outputs:
    """Where a task's outputs go, and KFP's answer about them."""

    def __init__(self, executor_input: Json) -> None:
        outputs = executor_input.get("outputs", {})
        self._artifacts = {name: entry["artifacts"][0] for name, entry in outputs.get("artifacts", {}).items()}
        self._parameters = {name: entry["outputFile"] for name, entry in outputs.get("parameters", {}).items()}
        self._answer_file = outputs.get("outputFile", "")
        self._answer: dict[str, Any] = {"artifacts": {}, "parameterValues": {}}

    def _write(self, name: str, data: bytes, metadata: Json, file: str = "") -> None:
        item = self._artifacts[name]
        path = Path(_local_path(item)) / file if file else Path(_local_path(item))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._answer["artifacts"][name] = {"artifacts": [{**item, "metadata": metadata}]}

    def artifact(self, name: str, manifest: bytes, metadata: Json) -> None:
        """Write a manifest into a folder of its own."""
        self._write(name, manifest, metadata, "manifest.json")

    def page(self, name: str, text: str) -> None:
        """Write a page for the KFP UI."""
        self._write(name, text.encode(), {})

    def metrics(self, name: str, values: dict[str, float]) -> None:
        """Write numbers as metadata (what the UI shows) and as a file (kfp's local cache needs one)."""
        self._write(name, canonical_json(values), dict(values))

    def value(self, name: str, text: str) -> None:
        """Write an output parameter."""
        path = Path(self._parameters[name])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self._answer["parameterValues"][name] = text

    def close(self, step: Step[Any], form: Form) -> None:
        """Check that everything declared was written, then write KFP's answer."""
        wanted = {*step.outputs, *step.pages, *form.values}
        missing = wanted - set(self._answer["artifacts"]) - set(self._answer["parameterValues"])
        if missing:
            raise AssertionError(f"step {step.name} ended without its outputs {sorted(missing)}")
        if self._answer_file:
            path = Path(self._answer_file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._answer))


def output_paths(request: Json) -> dict[str, Path]:
    """Return where `executor_input` lets a step's outputs go, by name."""
    outputs = request["outputs"]
    artifacts = {name: Path(entry["artifacts"][0]["uri"]) for name, entry in outputs["artifacts"].items()}
    return artifacts | {name: Path(entry["outputFile"]) for name, entry in outputs["parameters"].items()}


def executor_input(step: Step[Any], out: Path, values: Mapping[str, Any], inputs: Mapping[str, Sequence[Path]]) -> Json:
    """Return KFP's executor input for a step whose outputs go to `out`.

    Args:
        step: the declaration.
        out: folder of the outputs.
        values: KFP's parameter values by name.
        inputs: folders of the input artifacts by name, in order.
    """
    out, form = out.absolute(), step.form_for([*values, *inputs])
    shown = (*step.outputs, *step.pages)
    return {
        "inputs": {
            "parameterValues": dict(values),
            "artifacts": {
                name: {"artifacts": [{"uri": str(Path(folder).absolute())} for folder in given]}
                for name, given in inputs.items()
            },
        },
        "outputs": {
            "artifacts": {
                name: {"artifacts": [{"name": name, "uri": str(out / name), "metadata": {}}]} for name in shown
            },
            "parameters": {name: {"outputFile": str(out / name)} for name in form.values},
            "outputFile": str(out / "executor_output.json"),
        },
    }
