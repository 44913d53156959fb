"""`motion-enhancer images build | push | lock`: from this checkout to images that compiled pipelines name by digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import docker
import typer

from components.core.errors import ParameterError
from components.kubeflow import images
from components.kubeflow.tree import ROOT, tree_digest

app = typer.Typer(no_args_is_help=True, help="Build, push and lock the images of the steps.")

Variants = Annotated[list[str] | None, typer.Argument(metavar="[gpu|cpu]…", help="both, unless one is named")]
Repository = Annotated[
    str, typer.Option(envvar="IMAGE_REPOSITORY", help="registry and name, e.g. registry.example/team/motion-enhancer")
]
Tag = Annotated[str, typer.Option(help="tag after the variant; the digest of this code unless given")]


def names(variants: list[str] | None, repository: str, tag: str) -> dict[str, str]:
    """Return `repository:variant-tag` by variant.

    Raises:
        ParameterError: no such variant.
    """
    if unknown := set(variants or []) - set(images.VARIANTS):
        raise ParameterError(
            f"no image variant {', '.join(sorted(unknown))}",
            source="command line",
            remedy=f"use {', '.join(images.VARIANTS)}",
        )
    return {
        variant: images.tag_of(repository, variant, tag or tree_digest(ROOT)[:12])
        for variant in images.VARIANTS
        if not variants or variant in variants
    }


def _each(work: Callable[[docker.DockerClient, str, str], str], chosen: Mapping[str, str]) -> None:
    """Do the work for every variant side by side (unpacking and compressing take one core) and print results."""

    def one(variant: str, name: str) -> str:
        with images.engine() as client:
            return work(client, variant, name)

    with ThreadPoolExecutor(len(chosen)) as pool:
        for said in pool.map(one, chosen.keys(), chosen.values()):
            typer.echo(said)


@app.command()
def build(
    repository: Repository,
    variants: Variants = None,
    tag: Tag = "",
    arguments: Annotated[
        list[str] | None, typer.Option("--build-arg", help="NAME=VALUE in place of docker/images.json's")
    ] = None,
    network: Annotated[str, typer.Option(help="network of the build's commands")] = "default",
    sbom: Annotated[Path, typer.Option(help="folder for the bills of materials (CycloneDX)")] = Path("runs/images"),
) -> None:
    """Build the images and write their bills of materials."""
    overrides = dict(item.split("=", 1) for item in arguments or [] if "=" in item)
    if len(overrides) != len(arguments or []):
        raise ParameterError(f"cannot read {arguments}", source="--build-arg", remedy="NAME=VALUE, each name once")

    def work(client: docker.DockerClient, variant: str, name: str) -> str:
        images.build(client, variant, name, overrides, network)
        return f"{name}\n{images.software(client, name, sbom / f'{variant}.cdx.json')}"

    _each(work, names(variants, repository, tag))


@app.command()
def push(repository: Repository, variants: Variants = None, tag: Tag = "") -> None:
    """Push the images that were built from this code."""
    _each(lambda client, _, name: images.push(client, name), names(variants, repository, tag))


@app.command()
def lock(
    repository: Repository,
    tag: Tag = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="the lock; commit it")] = images.LOCK,
) -> None:
    """Write the digests of the pushed images, which `compile` puts into the pipelines."""
    with images.engine() as client:
        for variant, reference in images.lock(client, names(None, repository, tag), output).items():
            typer.echo(f"{variant} {reference}")
