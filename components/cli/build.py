"""`motion-enhancer compile` and `images build | push | lock`: pipelines as YAML, and the images that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import docker
from typer import Argument, Option, Typer, echo

from components.cli.options import Image, Lock
from components.core.errors import ParameterError
from components.kubeflow import images
from components.kubeflow.tree import ROOT, tree_digest

images_app = Typer(no_args_is_help=True, help="Build, push and lock the images of the steps.")

_PARALLELISM = "shards or benchmarks at once; KFP's own limit unless given"
_GPUS = "GPUs of a pod that works unit by unit (a shard, a benchmark), one process each; 4 with --profile a100"
_CPU = "CLASS=COUNT, processors: of each GPU of a task with units (gpu, 10) or of fine-tuning (sft, 10), else cpu (4)"
_MEMORY = "CLASS=SIZE, main memory by the same classes (gpu=100Gi, sft=100Gi, cpu=16Gi); repeatable; `plan` compares"
_RETRIES = "tries of a task after its first; which ends of a pod KFP tries again: docs/troubleshooting.md"
_SELECTOR = "KEY=VALUE, label of the GPU nodes, in place of A100-SXM4-80GB's"
_SECRET = "secret with endpoint, accesskey and secretkey"
_MODELS = "volume claim of checkpoints; KFP's cache keys hold it"
_SCRATCH = "volume claim that these nodes share while they train"
_PULL = "secret with the registry's login, where the pods' service account names none"
_DISK = "local disk of a node that fine-tunes; `plan` says what a training takes"
_REPOSITORY = "registry and name, e.g. registry.example/team/motion-enhancer"
_ARGUMENTS = "NAME=VALUE in place of docker/images.json's"
Variants = Annotated[list[str] | None, Argument(metavar="[gpu|cpu]…", help="both, unless one is named")]
Repository = Annotated[str, Option(envvar="IMAGE_REPOSITORY", help=_REPOSITORY)]
Tag = Annotated[str, Option(help="tag after the variant; the digest of this code unless given")]


def compile_(
    name: Annotated[str, Argument(metavar="[PIPELINE]")] = "motion_enhancer",
    output: Annotated[Path, Option("--output", "-o", help="YAML to write")] = Path("motion_enhancer.yaml"),
    image: Image = "",
    lock: Lock = images.LOCK,
    local: Annotated[bool, Option("--local", help="name no image but this tree's digest (for local runs)")] = False,
    profile: Annotated[str, Option(help="a100: GPU steps on A100 nodes; cpu: everything on CPU nodes")] = "a100",
    parallelism: Annotated[int | None, Option(help=_PARALLELISM)] = None,
    timeout: Annotated[int, Option(help="seconds that one try of a task may take; a shard must fit")] = 72 * 3600,
    deadline: Annotated[int | None, Option(help="seconds that a whole run may take (KFP 2.17 or newer)")] = None,
    retries: Annotated[int, Option(help=_RETRIES)] = 2,
    node_selector: Annotated[list[str] | None, Option(help=_SELECTOR)] = None,
    queue: Annotated[str | None, Option(help="Kueue's local queue for the GPU steps")] = None,
    store_secret: Annotated[str, Option(help=_SECRET)] = "motion-enhancer-store",
    model_claim: Annotated[str, Option(help=_MODELS)] = "motion-enhancer-models",
    gpus_per_shard: Annotated[int | None, Option(help=_GPUS)] = None,
    cpu: Annotated[list[str] | None, Option("--cpu", help=_CPU)] = None,
    memory: Annotated[list[str] | None, Option("--memory", help=_MEMORY)] = None,
    sft_nodes: Annotated[int, Option(help="nodes that fine-tuning takes; above 1 through Kubeflow Trainer")] = 1,
    scratch: Annotated[str, Option(help=_DISK)] = "200Gi",
    scratch_claim: Annotated[str, Option(help=_SCRATCH)] = "motion-enhancer-scratch",
    pull_secret: Annotated[str | None, Option(help=_PULL)] = None,
) -> None:
    """Compile a pipeline into the YAML that the KFP UI takes."""
    from components.kubeflow.compile import chosen_images, compile_pipeline
    from components.kubeflow.scheduling import Profile, memories, node_labels, processors

    if profile not in ("a100", "cpu"):
        raise ParameterError(f"unknown profile {profile!r}", source="--profile", remedy="a100 or cpu")
    limits: dict[str, Any] = {"parallelism": parallelism, "timeout": timeout, "deadline": deadline, "retries": retries}
    claims: dict[str, Any] = {"model_claim": model_claim, "scratch_claim": scratch_claim}
    claims["pull_secret"] = pull_secret
    pods: dict[str, Any] = {"queue": queue, "store_secret": store_secret, "sft_nodes": sft_nodes}
    pods |= {"scratch": scratch, "cpus": processors(profile, cpu or ()), "memory": memories(profile, memory or ())}
    if gpus_per_shard is not None:
        if profile == "cpu":
            problem, remedy = "no step of profile cpu asks for a GPU", "leave it out"
            raise ParameterError(problem, source="--gpus-per-shard", remedy=remedy)
        pods["gpus_per_shard"] = gpus_per_shard
    chosen = Profile(profile, node_selector=node_labels(profile, node_selector or ()), **limits, **claims, **pods)
    compile_pipeline(name, output, chosen_images(image, local, lock), chosen)
    echo(output)


def names(variants: list[str] | None, repository: str, tag: str) -> dict[str, str]:
    """Return `repository:variant-tag` by variant; an unknown variant is `ParameterError`."""
    if unknown := set(variants or []) - set(images.VARIANTS):
        problem, remedy = f"no image variant {', '.join(sorted(unknown))}", f"use {', '.join(images.VARIANTS)}"
        raise ParameterError(problem, source="command line", remedy=remedy)
    tag = tag or tree_digest(ROOT)[:12]
    return {variant: f"{repository}:{variant}-{tag}" for variant in variants or images.VARIANTS}


def _each(work: Callable[[docker.DockerClient, str, str], str], chosen: Mapping[str, str]) -> None:
    """Do the work for every variant side by side (unpacking and compressing take one core) and print results."""

    def one(variant: str, name: str) -> str:
        with images.engine() as client:
            return work(client, variant, name)

    with ThreadPoolExecutor(len(chosen)) as pool:
        for result in pool.map(one, chosen.keys(), chosen.values()):
            echo(result)


@images_app.command()
def build(
    repository: Repository,
    variants: Variants = None,
    tag: Tag = "",
    arguments: Annotated[list[str] | None, Option("--build-arg", help=_ARGUMENTS)] = None,
    network: Annotated[str, Option(help="network of the build's commands")] = "default",
    sbom: Annotated[Path, Option(help="folder for the bills of materials (CycloneDX)")] = Path("runs/images"),
) -> None:
    """Build the images and write their bills of materials."""
    overrides = dict(item.split("=", 1) for item in arguments or [] if "=" in item)
    if len(overrides) != len(arguments or []):
        raise ParameterError(f"cannot read {arguments}", source="--build-arg", remedy="NAME=VALUE, each name once")

    def work(client: docker.DockerClient, variant: str, name: str) -> str:
        images.build(client, variant, name, overrides, network)
        return f"{name}\n{images.software(client, name, sbom / f'{variant}.cdx.json')}"

    _each(work, names(variants, repository, tag))


@images_app.command()
def push(repository: Repository, variants: Variants = None, tag: Tag = "") -> None:
    """Push the images that were built from this code."""
    _each(lambda client, _, name: images.push(client, name), names(variants, repository, tag))


@images_app.command()
def lock(
    repository: Repository,
    tag: Tag = "",
    output: Annotated[Path, Option("--output", "-o", help="the lock; commit it")] = images.LOCK,
) -> None:
    """Write the digests of the pushed images, which `compile` puts into the pipelines."""
    with images.engine() as client:
        for variant, reference in images.lock(client, names(None, repository, tag), output).items():
            echo(f"{variant} {reference}")
