"""`motion-enhancer compile`: a pipeline as the YAML that Kubeflow Pipelines takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.cli.options import Image, Lock
from components.core.errors import ParameterError
from components.kubeflow.images import LOCK


def compile_(
    name: Annotated[str, typer.Argument(metavar="[PIPELINE]")] = "motion_enhancer",
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML to write")] = Path("motion_enhancer.yaml"),
    image: Image = "",
    lock: Lock = LOCK,
    local: Annotated[
        bool, typer.Option("--local", help="name no image but this tree's digest (for local runs)")
    ] = False,
    profile: Annotated[str, typer.Option(help="a100: GPU steps on A100 nodes; cpu: everything on CPU nodes")] = "a100",
    parallelism: Annotated[
        int | None, typer.Option(help="shards or benchmarks at once; KFP's own limit unless given")
    ] = None,
    timeout: Annotated[int, typer.Option(help="seconds that one try of a task may take")] = 12 * 3600,
    deadline: Annotated[int | None, typer.Option(help="seconds that a whole run may take (KFP 2.17 or newer)")] = None,
    retries: Annotated[
        int, typer.Option(help="tries of a task after its first; nodes that can be taken away need more")
    ] = 1,
    node_selector: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, label of the GPU nodes, in place of A100-SXM4-80GB's")
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Kueue's local queue for the GPU steps")] = None,
    store_secret: Annotated[
        str, typer.Option(help="secret with endpoint, accesskey and secretkey")
    ] = "motion-enhancer-store",
    model_claim: Annotated[
        str, typer.Option(help="volume claim of checkpoints; KFP's cache keys hold it")
    ] = "motion-enhancer-models",
    sft_nodes: Annotated[int, typer.Option(help="nodes that fine-tuning takes; above 1 through Kubeflow Trainer")] = 1,
    scratch_claim: Annotated[
        str, typer.Option(help="volume claim that these nodes share while they train")
    ] = "motion-enhancer-scratch",
) -> None:
    """Compile a pipeline into the YAML that the KFP UI takes."""
    from components.kubeflow.compile import chosen_images, compile_pipeline
    from components.kubeflow.scheduling import Profile, node_labels

    if profile not in ("a100", "cpu"):
        raise ParameterError(f"unknown profile {profile!r}", source="--profile", remedy="a100 or cpu")
    labels = node_labels(profile, node_selector or ())
    chosen = Profile(
        kind=profile,
        parallelism=parallelism,
        timeout=timeout,
        deadline=deadline,
        retries=retries,
        node_selector=labels,
        queue=queue,
        store_secret=store_secret,
        model_claim=model_claim,
        sft_nodes=sft_nodes,
        scratch_claim=scratch_claim,
    )
    compile_pipeline(name, output, chosen_images(image, local, lock), chosen)
    typer.echo(output)
