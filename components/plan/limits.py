"""What the pods of a run may take, what its tasks are predicted to take, and whether they fit.

`compile` chooses pods and time limits and hands them to the plan's task in an environment variable; a run on this
machine has none. Nothing of it enters a key of the store or KFP's cache, as the plan is never cached.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from pydantic import Field, ValidationError

from components.core.errors import ParameterError
from components.core.units import counted, readable_bytes, readable_hours
from components.plan.cost import Peak
from components.runtime.parameters import Parameters

VARIABLE = "RUN_LIMITS"
MOST_SHARDS = 100  # of the parameter `shards`
MOST_GPUS = 8  # of a node


class Pod(Parameters):
    """A pod with GPUs; without any, its device is the CPU and its main memory holds all."""

    gpus: int = Field(ge=0, description="GPUs, with one process each")
    memory: int = Field(gt=0, description="bytes of main memory")

    @property
    def processes(self) -> int:
        """Processes that compute side by side."""
        return max(1, self.gpus)


class Limits(Parameters):
    """What `compile` gave the tasks of a run."""

    timeout: int = Field(gt=0, description="seconds of one try of a task")
    shard: Pod = Field(description="of a task that works unit by unit: a shard, a benchmark")
    sft: Pod = Field(description="of one node that fine-tunes")
    sft_nodes: int = Field(1, ge=1, description="nodes that fine-tune together")
    device: int | None = Field(None, gt=0, description="bytes of a GPU's memory, where the nodes' label names it")


def given_limits() -> Limits | None:
    """Return the limits that this process was given; None where there are none."""
    text = os.environ.get(VARIABLE)
    return None if text is None else read_limits(text)


def read_limits(text: str) -> Limits:
    """Return limits from JSON. Raises ParameterError: it holds none."""
    try:
        return Limits.model_validate_json(text)
    except ValidationError as error:
        problem = f"cannot be read: {error.errors()[0]['msg']}"
        raise ParameterError(problem, source=VARIABLE, remedy="compile the pipeline again") from error


@dataclass(frozen=True)
class Task:
    """What one task of a run, in all its pods together, is predicted to take.

    Attributes:
        name: of the task.
        pod: what one of its pods works on.
        hours: on one GPU.
        pods: how many share the units.
        units: pieces that a process works on one after the other; 0: there is nothing to do.
        at_most: the hours are an upper bound.
        peak: the most memory of a process; None where nothing is predicted.
        way: how each of its pods gets less to do, where that is not a number of shards, GPUs or nodes.
    """

    name: str
    pod: Literal["shard", "benchmark", "node"]
    hours: float
    pods: int = 1
    units: int = 1
    at_most: bool = False
    peak: Peak | None = None
    way: str = ""

    def pod_hours(self, pods: int, processes: int) -> float:
        """Return the hours of the pod that has most to do, where units are alike and dealt out evenly."""
        if not self.units:
            return 0.0
        return self.hours * ceil(ceil(self.units / pods) / processes) / self.units


@dataclass(frozen=True)
class Load:
    """A task in the pods that it gets. Times are in hours, memory in bytes."""

    task: Task
    limits: Limits

    @property
    def pod(self) -> Pod:
        """The pod."""
        return self.limits.sft if self.task.pod == "node" else self.limits.shard

    @property
    def hours(self) -> float:
        """Of the pod that has most to do."""
        return self.task.pod_hours(self.task.pods, self.pod.processes)

    @property
    def main(self) -> int:
        """Main memory of a pod: of all its processes, and where there is no GPU what the device would hold."""
        if (peak := self.task.peak) is None:
            return 0
        return self.pod.processes * (peak.main if self.pod.gpus else peak.main + peak.pictured)

    @property
    def late(self) -> bool:
        """Whether a pod outlasts its time limit, or may where the hours are an upper bound."""
        return self.hours > self.limits.timeout / 3600

    @property
    def cramped(self) -> bool:
        """Whether a pod's main memory is too small."""
        return self.main > self.pod.memory

    def too_large(self, device: int) -> bool:
        """Whether so many bytes are more than a GPU has."""
        return bool(self.pod.gpus) and self.limits.device is not None and device > self.limits.device

    def faults(self) -> list[str]:
        """Return what does not fit, with the numbers."""
        task, peak, found = self.task, self.task.peak, []
        gpus = f" with {counted(self.pod.gpus, 'GPU')}" if self.pod.gpus else ""
        if self.late:
            each = "a pod" if task.pod == "benchmark" else f"each of {counted(task.pods, task.pod)}"
            hours, allowed = readable_hours(self.hours), readable_hours(self.limits.timeout / 3600)
            most = "at most " if task.at_most else ""
            found.append(f"{task.name}: {most}{hours} for {each}{gpus}, {allowed} are allowed")
        if self.cramped:
            has = readable_bytes(self.pod.memory)
            found.append(f"{task.name}: {readable_bytes(self.main)} of main memory in a pod{gpus} that has {has}")
        if peak is not None and self.too_large(peak.pictured):
            pictures = "" if self.too_large(peak.device) else "with pictures "
            has = readable_bytes(self.limits.device or 0)
            found.append(f"{task.name}: {pictures}{readable_bytes(peak.pictured)} on a GPU that has {has}")
        return found


@dataclass(frozen=True)
class Misfit:
    """What of a run does not fit its pods, by task, and each way to make it fit."""

    faults: list[str]
    ways: list[str]

    @property
    def error(self) -> ParameterError:
        """What stops such a run."""
        problem = "the run does not fit its pods:" + "".join(f"\n    {fault}" for fault in self.faults)
        remedy = f"{'; '.join(self.ways)}; or over_limits=go: it runs all the same, and what it finishes is remembered"
        return ParameterError(problem, source="shards, compile --timeout, --gpus-per-shard, --memory", remedy=remedy)


def misfit(tasks: Sequence[Task], limits: Limits, recordable: Callable[[int], bool]) -> Misfit | None:
    """Return what does not fit, if anything; of tasks whose hours are an upper bound, what may not.

    Args:
        tasks: with what they are predicted to take.
        limits: what their pods may take.
        recordable: whether Argo keeps the record of a run of so many shards.
    """
    loads = [Load(task, limits) for task in tasks]
    faults = [fault for load in loads for fault in load.faults()]
    return Misfit(faults, [*_times(loads, limits, recordable), *_memories(loads)]) if faults else None


def _times(loads: Sequence[Load], limits: Limits, recordable: Callable[[int], bool]) -> Iterator[str]:
    """Yield the ways to bring every pod below the time limit; each of them alone does, for the tasks that it is for."""
    late, allowed = [load for load in loads if load.late], limits.timeout / 3600
    if not late:
        return
    sharded = [load.task for load in late if load.task.pod == "shard"]
    units = [load.task for load in late if load.task.pod != "node"]

    def least(tasks: Sequence[Task], counts: range, hours: Callable[[Task, int], float]) -> int | None:
        return next((count for count in counts if all(hours(task, count) <= allowed for task in tasks)), None)

    def in_shards(task: Task, count: int) -> float:
        return task.pod_hours(count, limits.shard.processes)

    def on_gpus(task: Task, count: int) -> float:
        return task.pod_hours(task.pods, count)

    shards = least(sharded, range(1, MOST_SHARDS + 1), in_shards)
    if sharded and shards is not None and recordable(shards):
        yield f'{shards} shards fit (shards=["0/{shards}", … "{shards - 1}/{shards}"])'
    gpus = least(units, range(1, MOST_GPUS + 1), on_gpus)
    if units and limits.shard.gpus and gpus is not None:
        yield f"compile --gpus-per-shard {gpus}"
    nodes = [load.task for load in late if load.task.pod == "node"]
    if nodes and (count := least(nodes, range(1, MOST_SHARDS + 1), lambda t, n: t.pod_hours(n, limits.sft.processes))):
        yield f"compile --sft-nodes {count}"
    yield from dict.fromkeys(load.task.way for load in late if load.task.way)
    yield f"compile --timeout {3600 * ceil(max(load.hours for load in late))}"


def _memories(loads: Sequence[Load]) -> Iterator[str]:
    """Yield the ways to make the memory suffice."""
    needed: dict[str, int] = {}
    for load in (load for load in loads if load.cramped):
        name = "cpu" if not load.pod.gpus else "sft" if load.task.pod == "node" else "gpu"
        needed[name] = max(needed.get(name, 0), ceil(load.main / load.pod.processes / 2**30))
    yield from (f"compile --memory {name}={size}Gi" for name, size in needed.items())
    drawn = [load for load in loads if load.task.peak and load.too_large(load.task.peak.pictured)]
    if any(load.task.peak and load.too_large(load.task.peak.device) for load in drawn):
        yield "smaller params_ddim_inversion.num_frames, height, width; GPUs with more memory (compile --node-selector)"
    elif drawn:
        yield " and ".join(f"params_{load.task.name}.pictures=0" for load in drawn)
