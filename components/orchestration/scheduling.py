"""Where tasks run: one helper for every GPU step, one for the others. Compile-time facts of a cluster, none of them in a cache key."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from kfp import dsl, kubernetes


@dataclass(frozen=True)
class Profile:
    """What the cluster offers. `gpu=False` compiles a pipeline whose steps all run on CPU nodes."""

    gpu: bool = True
    node_label: str = "nvidia.com/gpu.product"
    node_value: str = "NVIDIA-A100-SXM4-80GB"
    retries: int = 1
    timeout_s: int = 12 * 3600
    store_secret: str = "motion-enhancer-store"  # noqa: S105 - the name of a Kubernetes secret, not its content
    model_claim: str = "motion-enhancer-models"


PROFILE: ContextVar[Profile] = ContextVar("profile", default=Profile(gpu=False))


def on_cpu(task: dsl.PipelineTask, title: str) -> dsl.PipelineTask:
    """Display name, store secret, retry and security context of any task."""
    profile = PROFILE.get()
    task.set_display_name(title)
    if not profile.gpu:
        return task
    task.set_retry(num_retries=profile.retries, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration="600s")
    names = {"endpoint": "S3_ENDPOINT", "accesskey": "S3_ACCESS_KEY", "secretkey": "S3_SECRET_KEY"}
    kubernetes.use_secret_as_env(task, profile.store_secret, names)
    kubernetes.set_security_context(task, run_as_user=65532, run_as_group=65532, run_as_non_root=True)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_timeout(task, profile.timeout_s)
    kubernetes.mount_pvc(task, pvc_name=profile.model_claim, mount_path="/models")
    return task


def on_a100(task: dsl.PipelineTask, title: str, gpus: int = 1) -> dsl.PipelineTask:
    """As `on_cpu`, on `gpus` A100s with shared memory for data loading."""
    profile = PROFILE.get()
    on_cpu(task, title)
    if not profile.gpu:
        return task
    task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(gpus)
    task.set_cpu_request(str(12 * gpus)).set_memory_request(f"{120 * gpus}Gi").set_memory_limit(f"{120 * gpus}Gi")
    kubernetes.add_node_selector(task, profile.node_label, profile.node_value)
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    kubernetes.empty_dir_mount(task, volume_name="dshm", mount_path="/dev/shm", medium="Memory", size_limit=f"{16 * gpus}Gi")  # noqa: S108
    return task
