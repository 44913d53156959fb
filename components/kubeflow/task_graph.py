"""The task graph of a compiled pipeline: what each task takes from which other, through KFP's loops.

KFP compiles a loop into a DAG of its own; values cross its border under other names. Here only leaf tasks remain.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

Tasks = dict[str, set[tuple[str, str]]]  # task: {(producer, output)}
_Sources = dict[str, set[tuple[str, str]]]
_PIPELINE = ""  # stands as the producer of the pipeline's own parameters


def task_graph(pipeline_spec: Any) -> Tasks:
    """Return leaf tasks with the outputs that they take, from a compiled pipeline's message or its JSON."""
    tasks, _ = _read(pipeline_spec)
    return {task: {source for source in sources if source[0] != _PIPELINE} for task, sources in tasks.items()}


def parameter_tasks(pipeline_spec: Any) -> dict[str, set[str]]:
    """Return the leaf tasks that each pipeline parameter reaches directly, as a value or as a loop's item."""
    tasks, names = _read(pipeline_spec)
    return {name: {task for task, sources in tasks.items() if (_PIPELINE, name) in sources} for name in names}


def _read(pipeline_spec: Any) -> tuple[Tasks, list[str]]:
    spec = pipeline_spec if isinstance(pipeline_spec, dict) else json_format.MessageToDict(pipeline_spec)
    names = list(spec["root"].get("inputDefinitions", {}).get("parameters", {}))
    tasks: Tasks = {}
    _walk(spec["components"], spec["root"]["dag"], {name: {(_PIPELINE, name)} for name in names}, tasks)
    return tasks, names


def _walk(components: dict[str, Any], dag: dict[str, Any], border: _Sources, tasks: Tasks) -> None:
    """Add a DAG's tasks; `border` holds the outputs behind its own inputs."""
    for name, task in dag["tasks"].items():
        given = task.get("inputs", {})
        sources = {
            key: _producers(components, dag, value, border)
            for kind in ("parameters", "artifacts")
            for key, value in given.get(kind, {}).items()
        }
        inner = components[task["componentRef"]["name"]].get("dag")
        if inner is None:
            tasks[name] = set().union(*sources.values())
        else:
            if (loop := task.get("parameterIterator")) is not None:
                sources[loop["itemInput"]] = sources.get(loop["items"].get("inputParameter"), set())
            _walk(components, inner, sources, tasks)


def _producers(
    components: dict[str, Any], dag: dict[str, Any], value: dict[str, Any], border: _Sources
) -> set[tuple[str, str]]:
    """Return outputs of leaf tasks, or pipeline parameters, behind one input of a task; empty for constants."""
    if (name := value.get("componentInputArtifact") or value.get("componentInputParameter")) is not None:
        return border.get(name, set())
    if (source := value.get("taskOutputArtifact")) is not None:
        return _leaves(components, dag, source["producerTask"], source["outputArtifactKey"])
    if (source := value.get("taskOutputParameter")) is not None:
        return {(source["producerTask"], source["outputParameterKey"])}
    return set()


def _leaves(components: dict[str, Any], dag: dict[str, Any], task: str, output: str) -> set[tuple[str, str]]:
    inner = components[dag["tasks"][task]["componentRef"]["name"]].get("dag")
    if inner is None:
        return {(task, output)}
    found: set[tuple[str, str]] = set()
    for selector in inner["outputs"]["artifacts"][output]["artifactSelectors"]:
        found |= _leaves(components, inner, selector["producerSubtask"], selector["outputArtifactKey"])
    return found


def followers(tasks: Tasks, first: set[str]) -> set[str]:
    """Return `first` and every task that takes something from one of them, however far."""
    found = set(first)
    while True:
        more = {task for task, sources in tasks.items() if found & {producer for producer, _ in sources}} - found
        if not more:
            return found
        found |= more


def usual_order(tasks: Tasks) -> list[str]:
    """Return producers before consumers: by the number of tasks that follow, names break ties."""
    return sorted(tasks, key=lambda task: (-len(followers(tasks, {task})), task))
