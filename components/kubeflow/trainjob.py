"""SFT on several nodes: the sft task is a launcher on a CPU node that creates a Kubeflow TrainJob and waits for it.

A KFP task is one pod, so what exceeds a node needs another kind of object (Trainer 2.2 or newer, its runtime
`torch-distributed`). Launcher and workers run the same image; they share a folder, the launcher's `TMPDIR`, on a volume
that all of them mount. Each worker writes its part of a state to local disk of its node.
"""

from __future__ import annotations

import json
from typing import Any

from kfp import dsl, kubernetes

from components.kubeflow import scheduling
from components.kubeflow.scheduling import MODELS, PROFILE, REQUIRED_KEYS, TMP, USER, Profile
from components.sft.nodes import MANIFEST
from components.store.settings import FOLDER

SCRATCH = "/scratch"
RUNTIME = "torch-distributed"
NAME = {"app.kubernetes.io/name": "motion-enhancer-sft"}
# the network rules of `manifests/` know a run's pods, which may reach the store, by this label
POD_LABELS = {**NAME, "pipelines.kubeflow.org/v2_component": "true"}


def on_a100_nodes(task: dsl.PipelineTask, title: str, gpus: int) -> dsl.PipelineTask:
    """Schedule a task on one node with `gpus` GPUs, or as the launcher of a TrainJob on the profile's nodes."""
    profile = PROFILE.get()
    if profile.sft_nodes == 1:
        return scheduling.with_scratch(scheduling.on_a100(task, title, gpus, "sft"))
    scheduling.on_cpu(task, title, models=True)
    kubernetes.mount_pvc(task, pvc_name=profile.scratch_claim, mount_path=SCRATCH)
    kubernetes.use_field_path_as_env(task, "POD_NAME", "metadata.name")
    kubernetes.use_field_path_as_env(task, "POD_UID", "metadata.uid")
    kubernetes.use_field_path_as_env(task, "POD_SERVICE_ACCOUNT", "spec.serviceAccountName")
    task.set_env_variable("TMPDIR", SCRATCH)
    manifest = train_job(profile, task.container_spec.image, gpus)
    return task.set_env_variable(MANIFEST, json.dumps(manifest, separators=(",", ":")))


def train_job(profile: Profile, image: str, gpus: int) -> dict[str, Any]:
    """Return the TrainJob without name and job file, which the launcher adds: `gpus` processes on each node."""
    template = {"metadata": {"labels": POD_LABELS}, "spec": _pod(profile, gpus)}
    jobs = [{"name": "node", "template": {"spec": {"template": template}}}]
    patch = {"manager": "motion-enhancer", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}
    memory = scheduling.times(profile.memory["sft"], gpus)
    accelerators = {"nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"labels": NAME | ({"kueue.x-k8s.io/queue-name": profile.queue} if profile.queue else {})},
        "spec": {
            "runtimeRef": {"name": RUNTIME},
            "activeDeadlineSeconds": profile.timeout,
            "trainer": {
                "image": image,
                "numNodes": profile.sft_nodes,
                "numProcPerNode": gpus,
                # nodes, rank and rendezvous come from Trainer's PET_ variables
                "command": ["python", "-m", "torch.distributed.run"],
                "args": ["-m", "components.sft.loop"],
                "env": [_from_secret(profile, key, name) for key, name in REQUIRED_KEYS.items()],
                "resourcesPerNode": {
                    "requests": {
                        "cpu": str(profile.cpus["sft"] * gpus),
                        "memory": memory,
                        "ephemeral-storage": profile.scratch,
                        **accelerators,
                    },
                    "limits": {"memory": memory, **accelerators},
                },
            },
            "runtimePatches": [patch],
        },
    }


def _from_secret(profile: Profile, key: str, name: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": profile.store_secret, "key": key}}}


def _pod(profile: Profile, gpus: int) -> dict[str, Any]:
    """Return node, volumes and rights of a worker's pod: a GPU step's, and Pod Security's profile "restricted"."""
    mounts = {"dshm": "/dev/shm", "tmp": TMP, "models": MODELS, "scratch": SCRATCH, "store": str(FOLDER)}
    own = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
    pulls = {"imagePullSecrets": [{"name": profile.pull_secret}]} if profile.pull_secret is not None else {}
    return {
        **pulls,
        "nodeSelector": dict(profile.node_selector),
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "securityContext": {
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "runAsNonRoot": True,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{scheduling.GPU_SHM_GIB * gpus}Gi"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": profile.scratch}},
            {"name": "models", "persistentVolumeClaim": {"claimName": profile.model_claim}},
            {"name": "scratch", "persistentVolumeClaim": {"claimName": profile.scratch_claim}},
            {"name": "store", "secret": {"secretName": profile.store_secret, "optional": True}},
        ],
        "containers": [
            {
                "name": "node",
                "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
                "securityContext": own,
            }
        ],
    }
