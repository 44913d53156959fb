"""From one of the pipelines to the YAML that KFP takes: which images it names, and where it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format

from components.core.errors import ParameterError
from components.kubeflow import component
from components.kubeflow.arguments import pipeline
from components.kubeflow.images import VARIANTS, locked, pinned
from components.kubeflow.local import local_image
from components.kubeflow.scheduling import PROFILE, Profile
from components.plan.limits import VARIABLE, Limits, read_limits


def chosen_images(image: str, local: bool, lock: Path) -> dict[str, str]:
    """Return the images by variant: this tree's digest, one image for all steps, or the lock's; never one by tag."""
    image = local_image() if local else image
    return dict.fromkeys(VARIANTS, pinned(image, "--image")) if image else locked(lock)


def compile_pipeline(name: str, target: Path, images: dict[str, str], profile: Profile | None = None) -> Any:
    """Compile into `target` and return the pipeline: as it is imported, so once per process, for one profile."""
    if profile is not None:
        PROFILE.set(profile)
    component.use_images(images)
    made = pipeline(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(as_yaml(made))
    return made


def compiled_limits(file: Path) -> Limits:
    """Return what the pods of a compiled pipeline may take, as its plan reads it.

    Raises:
        ParameterError: no pipeline that was compiled for a cluster.
    """
    problem, remedy = f"{file} is no pipeline that was compiled for a cluster", "give what `compile` wrote"
    try:
        spec = next(yaml.safe_load_all(file.read_text()))
        given = spec["deploymentSpec"]["executors"]["exec-plan"]["container"]["env"]
        (text,) = (item["value"] for item in given if item["name"] == VARIABLE)
    except (OSError, yaml.YAMLError, StopIteration, KeyError, TypeError, ValueError) as error:
        raise ParameterError(problem, source="--compiled", remedy=remedy) from error
    return read_limits(text)


def as_yaml(made: Any) -> str:
    """Return a pipeline as YAML, equal to the byte in every process: kfp's own writer heads it in a changing order."""
    messages = [made.pipeline_spec] + ([made.platform_spec] if made.platform_spec.platforms else [])
    documents = [json_format.MessageToDict(message) for message in messages]
    text: str = yaml.safe_dump_all(documents, sort_keys=True)
    return f"# Kubeflow pipeline {made.name}\n{text}"
