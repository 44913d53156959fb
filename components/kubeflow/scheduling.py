"""Where tasks run: `units_on_a100` for GPU steps, `on_a100_nodes` for fine-tuning, `on_cpu` for the others.

All of it is chosen when the pipeline is compiled. A pipeline parameter that reaches a task enters that task's cache key
(an accelerator count or an image given so becomes a hidden input), and another node pool must not compute anything
again. What is set here is in no key, but for the name of the models' volume claim: KFP hashes claims, so another one
runs the tasks that mount it once more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from kfp import dsl, kubernetes

from components.core.errors import ParameterError
from components.plan.limits import VARIABLE, Limits, Pod
from components.runtime.side_by_side import PROCESSES
from components.store.settings import FOLDER, KEYS

A100 = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
USER = 65532  # the images' own user and group
# What the store's secret must hold is a variable, so that a pod without it does not start. The rest is read where the
# secret is mounted: a variable per key stands in six nodes of a run's record for each task.
REQUIRED_KEYS = {"endpoint": KEYS["endpoint"]}
MODELS = "/models"
TMP = "/tmp"  # where the images write temporary files
# Processors and memory by class of step: for each GPU of a task that works unit by unit (gpu) or fine-tunes (sft), and
# of a task without one (cpu). Eight GPUs of these fit a node of 8 A100s with 96 processors and 1.1 TiB beside what the
# node keeps for itself.
CPUS, MEMORY = {"gpu": 10, "sft": 10, "cpu": 4}, {"gpu": "100Gi", "sft": "100Gi", "cpu": "16Gi"}
CPU_REQUEST, MEMORY_REQUEST = 1, "2Gi"  # of a task without a GPU, which fits a small node; the rest is its limit
GPU_SHM_GIB = 16
BACKOFF, BACKOFF_FACTOR = 60, 2  # seconds before the second try, and how much longer the wait before each next one is
WAIT_FOR_NODE = 7 * 24 * 3600  # seconds that the pod of a try may stay Pending: a queue, a pool that scales up

_PART = r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?"
_DOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME = re.compile(rf"(?=.{{1,253}}$){_DOMAIN}", re.ASCII)
_QUEUE = re.compile(rf"(?=.{{1,63}}$){_DOMAIN}", re.ASCII)  # it becomes a label's value
_VOLUME = re.compile(r"(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_KEY = re.compile(rf"((?=.{{1,253}}/){_DOMAIN}/)?{_PART}", re.ASCII)
_VALUE = re.compile(rf"({_PART})?", re.ASCII)
_SIZE = re.compile(r"[1-9]\d{0,5}[MGT]i", re.ASCII)
_COUNT = re.compile(r"[1-9]\d{0,3}", re.ASCII)
_UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# memory in GB as NVIDIA names its products: of a GPU (…-80GB), or of a part of one (…-80GB-MIG-3g.40gb)
_DEVICE = re.compile(r"(\d+)GB", re.ASCII | re.IGNORECASE)


# The wait doubles with each try, and Go's durations end at 292 years: hence the bounds of `timeout` and `retries`.
_BOUNDS = {"parallelism": (1, 2**31 - 1), "timeout": (1, 10**8), "deadline": (1, 2**31 - 1), "retries": (0, 10)}
_BOUNDS |= {"sft_nodes": (1, 2**31 - 1), "gpus_per_shard": (1, 64)}


@dataclass(frozen=True)
class Profile:
    """What a cluster offers. `local` sets nothing (KFP's local runner has no pods), `cpu` all but what GPUs need.

    `timeout` bounds a try of a task and `deadline` a whole run, in seconds. KFP 2.17 does not try again what runs out
    of time, and a default shard of 25 000 videos is predicted to take 39 hours. `retries` are tries after the first,
    two as KFP 2.17 gives a task that asks for none. `gpus_per_shard` GPUs are given to a task that works unit by unit,
    with one process each. `node_selector` holds labels of the GPU nodes; `scratch` is the local disk of a node that
    fine-tunes. Full tuning of a 7B model takes up to 150 GB of it. `cpus` and `memory` are by class of step.

    Raises ParameterError: a value that Kubernetes or KFP would refuse, by the option of `compile` that gave it.
    """

    kind: str = "local"
    parallelism: int | None = None
    timeout: int = 72 * 3600
    deadline: int | None = None
    retries: int = 2
    node_selector: Mapping[str, str] = field(default_factory=lambda: dict(A100))
    cpus: Mapping[str, int] = field(default_factory=lambda: dict(CPUS))
    memory: Mapping[str, str] = field(default_factory=lambda: dict(MEMORY))
    queue: str | None = None
    store_secret: str = "motion-enhancer-store"
    model_claim: str = "motion-enhancer-models"
    gpus_per_shard: int = 4
    sft_nodes: int = 1
    scratch: str = "200Gi"
    scratch_claim: str = "motion-enhancer-scratch"
    pull_secret: str | None = None

    @property
    def gpu(self) -> bool:
        """Whether GPU steps get GPUs."""
        return self.kind == "a100"

    @property
    def longest_task(self) -> int:
        """Seconds from the start of a task's first try to the end of its last one, at most.

        Argo counts `maxDuration` of a retry strategy from the start of the first try: after it there is no other try,
        and a later one that runs is killed. So it holds every try at full length, waits for nodes, and waits between.
        """
        waits: int = sum(BACKOFF * BACKOFF_FACTOR**count for count in range(self.retries))
        return (self.retries + 1) * (WAIT_FOR_NODE + self.timeout) + waits

    def limits(self, sft_gpus: int) -> Limits:
        """Return what the pods of a run may take, for `plan`."""
        name, gpus = ("gpu", self.gpus_per_shard) if self.gpu else ("cpu", 0)
        shard = Pod(gpus=gpus, memory=size_bytes(self.memory[name]) * max(1, gpus))
        trained = Pod(gpus=sft_gpus, memory=size_bytes(self.memory["sft"]) * sft_gpus) if self.gpu else shard
        device = device_bytes(self.node_selector) if self.gpu else None
        return Limits(timeout=self.timeout, shard=shard, sft=trained, sft_nodes=self.sft_nodes, device=device)

    def __post_init__(self) -> None:
        if self.kind not in ("local", "cpu", "a100"):
            raise ParameterError(f"unknown profile {self.kind!r}", source="--profile", remedy="a100 or cpu")
        for name, (least, most) in _BOUNDS.items():
            number = getattr(self, name)
            if number is not None and not least <= number <= most:
                remedy = f"give a whole number from {least} to {most}"
                raise ParameterError(f"cannot be {number}", source=option(name), remedy=remedy)
        if self.sft_nodes > 1 and not self.gpu:
            problem, remedy = f"profile {self.kind} has no GPU nodes", "leave it out, or --profile a100"
            raise ParameterError(problem, source="--sft-nodes", remedy=remedy)
        if not _SIZE.fullmatch(self.scratch):
            raise ParameterError(f"{self.scratch!r} is no size", source="--scratch", remedy="e.g. 200Gi")
        for name, form in {"queue": _QUEUE, "pull_secret": _NAME}.items():
            given = getattr(self, name)
            if given is not None and not form.fullmatch(given):
                remedy = "lower-case letters, digits, - and ."
                raise ParameterError(f"{given!r} is no Kubernetes name", source=option(name), remedy=remedy)
        self._check_volumes()

    def _check_volumes(self) -> None:
        """KFP names the volume of a claim or secret after it: a shorter name than theirs, and one for each."""
        names = ("store_secret", "model_claim", "scratch_claim")
        for place, name in enumerate(names):
            given = getattr(self, name)
            if not _VOLUME.fullmatch(given):
                problem, remedy = f"{given!r} is no name of a volume", "at most 63 lower-case letters, digits and -"
                raise ParameterError(problem, source=option(name), remedy=remedy)
            if given in (getattr(self, other) for other in names[:place]):
                problem, remedy = f"{given!r} would name two volumes of a pod", "another name for one of the two"
                raise ParameterError(problem, source=option(name), remedy=remedy)


def option(name: str) -> str:
    """Return the option of `compile` that sets a field."""
    return f"--{name.replace('_', '-')}"


PROFILE: ContextVar[Profile] = ContextVar("profile", default=Profile())


def node_labels(kind: str, given: Sequence[str]) -> dict[str, str]:
    """Return labels of the GPU nodes from KEY=VALUE each, checked; those of A100-SXM4-80GB unless there are any."""
    if kind == "cpu" and given:
        problem = "no step of profile cpu asks for a GPU node"
        raise ParameterError(problem, source="--node-selector", remedy="leave it out")
    return dict(map(_label, given)) or dict(A100)


def processors(kind: str, given: Sequence[str]) -> dict[str, int]:
    """Return processors by class of step from CLASS=COUNT each, checked; those of the defaults for the others."""
    return {name: int(value) for name, value in _by_class("--cpu", kind, given, CPUS, _COUNT, "8").items()}


def memories(kind: str, given: Sequence[str]) -> dict[str, str]:
    """Return memory by class of step from CLASS=SIZE each, checked; that of the defaults for the others."""
    found = _by_class("--memory", kind, given, MEMORY, _SIZE, "64Gi")
    for name in ("gpu", "sft"):
        if size_bytes(found[name]) <= GPU_SHM_GIB * 2**30:
            problem = f"{found[name]} of {name} is no more than its shared memory of {GPU_SHM_GIB}Gi"
            raise ParameterError(problem, source="--memory", remedy="give more")
    return found


def _by_class(
    source: str, kind: str, given: Sequence[str], known: Mapping[str, Any], form: re.Pattern[str], example: str
) -> dict[str, str]:
    found = {name: str(value) for name, value in known.items()}
    for text in given:
        name, _, value = text.partition("=")
        if name not in known or not form.fullmatch(value):
            remedy = f"CLASS=VALUE with CLASS one of {', '.join(known)}, e.g. gpu={example}; repeat it for another"
            raise ParameterError(f"cannot read {text!r}", source=source, remedy=remedy)
        if kind == "cpu" and name != "cpu":
            problem, remedy = f"profile cpu has no tasks of class {name}", f"cpu={value} is for all of its tasks"
            raise ParameterError(problem, source=source, remedy=remedy)
        found[name] = value
    return found


def size_bytes(size: str) -> int:
    """Return the bytes of a size like `16Gi`."""
    return int(size[:-2]) * _UNITS[size[-2:]]


def times(size: str, count: int) -> str:
    """Return a size so many times over, in its own unit."""
    return f"{int(size[:-2]) * count}{size[-2:]}"


def device_bytes(labels: Mapping[str, str]) -> int | None:
    """Return the memory of a GPU by the labels of its nodes; None where they do not name it.

    An A100 of 80 GB has 80 GiB: what is above 80 · 10⁹ bytes is left to kernels and their libraries.
    """
    return min((int(size) * 10**9 for value in labels.values() for size in _DEVICE.findall(value)), default=None)


def _label(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (sign and _KEY.fullmatch(key) and _VALUE.fullmatch(value)):
        remedy = "KEY=VALUE, a node's label, e.g. nvidia.com/gpu.product=NVIDIA-A100-SXM4-80GB; repeat it for another"
        raise ParameterError(f"{text!r} is no label", source="--node-selector", remedy=remedy)
    return key, value


def each(items: Any, name: str) -> dsl.ParallelFor:
    """Open a loop that the UI shows as `name`, with as many iterations at once as the profile allows."""
    return dsl.ParallelFor(items, name=name, parallelism=PROFILE.get().parallelism)


def run_limits() -> dsl.PipelineConfig:
    """Return the deadline of a whole run, where the profile has one; KFP before 2.17 does not know the field."""
    return dsl.PipelineConfig(active_deadline_seconds=PROFILE.get().deadline)


def on_cpu(task: dsl.PipelineTask, title: str, *, models: bool = False) -> dsl.PipelineTask:
    """Schedule a task without a GPU; `models` mounts the checkpoints."""
    _everywhere(task, title, models=models)
    return _cpu_size(task)


def with_limits(task: dsl.PipelineTask, sft_gpus: int) -> dsl.PipelineTask:
    """Tell `plan` what the other tasks' pods may take."""
    profile = PROFILE.get()
    if profile.kind == "local":
        return task
    return task.set_env_variable(VARIABLE, profile.limits(sft_gpus).model_dump_json(exclude_none=True))


def units_on_a100(task: dsl.PipelineTask, title: str) -> dsl.PipelineTask:
    """Schedule a task that works unit by unit: as many A100s as a shard gets, and one process for each."""
    profile = PROFILE.get()
    if profile.gpu and profile.gpus_per_shard > 1:
        task.set_env_variable(PROCESSES, str(profile.gpus_per_shard))
    return on_a100(task, title, profile.gpus_per_shard, "gpu")


def on_a100(task: dsl.PipelineTask, title: str, gpus: int, name: str) -> dsl.PipelineTask:
    """Schedule a task on one node with `gpus` A100s and the checkpoints: one pod, whose processes share memory.

    `name` is its class of step.
    """
    profile = PROFILE.get()
    _everywhere(task, title, models=True)
    if profile.kind != "local" and profile.queue is not None:
        kubernetes.add_pod_label(task, "kueue.x-k8s.io/queue-name", profile.queue)
    if not profile.gpu:
        return _cpu_size(task)
    task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(gpus)
    memory = times(profile.memory[name], gpus)  # shared memory counts against the limit
    task.set_cpu_request(str(profile.cpus[name] * gpus)).set_memory_request(memory).set_memory_limit(memory)
    for key, value in profile.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    shm = f"{GPU_SHM_GIB * gpus}Gi"
    return kubernetes.empty_dir_mount(task, volume_name="dshm", mount_path="/dev/shm", medium="Memory", size_limit=shm)


def with_scratch(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a task local disk of the profile's size for its temporary files.

    KFP has no field for a request of `ephemeral-storage`. An emptyDir counts as such and may be written by any user; a
    volume of its own would belong to root, as KFP's pods have no `fsGroup`. Its size is a limit that no node reserves,
    so `submit --check` compares it with the nodes' disks.
    """
    profile = PROFILE.get()
    if profile.kind == "local":
        return task
    return kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path=TMP, size_limit=profile.scratch)


def _everywhere(task: dsl.PipelineTask, title: str, *, models: bool) -> None:
    """Title, retries, store secret, non-root user, pull policy and timeout of any task."""
    profile = PROFILE.get()
    task.set_display_name(title)
    if profile.kind == "local":
        return
    if profile.retries:
        bounds = {"backoff_duration": f"{BACKOFF}s", "backoff_max_duration": f"{profile.longest_task}s"}
        task.set_retry(profile.retries, backoff_factor=float(BACKOFF_FACTOR), **bounds)
    kubernetes.use_secret_as_env(task, profile.store_secret, REQUIRED_KEYS)
    kubernetes.use_secret_as_volume(task, profile.store_secret, str(FOLDER), optional=True)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")  # images are named by digest
    if profile.pull_secret is not None:
        kubernetes.set_image_pull_secrets(task, [profile.pull_secret])
    kubernetes.set_timeout(task, profile.timeout)
    if models:
        kubernetes.mount_pvc(task, pvc_name=profile.model_claim, mount_path=MODELS)


def _cpu_size(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Set requests that fit a small node, and limits for a manifest of 25k samples."""
    profile = PROFILE.get()
    if profile.kind != "local":
        memory = profile.memory["cpu"]
        task.set_cpu_request(str(CPU_REQUEST)).set_cpu_limit(str(profile.cpus["cpu"]))
        task.set_memory_request(min(MEMORY_REQUEST, memory, key=size_bytes)).set_memory_limit(memory)
    return task
