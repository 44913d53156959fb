"""Images of the steps: build both variants, push them, and lock what the registry holds by digest.

`docker/images.json` names each variant's base image and torch; `docker/images.lock.json` names what compiled pipelines
run in, as `name@sha256:…`: KFP's cache sees the image as a string, so a tag would hide a change. The lock lies outside
the build's context. A base is named by digest as well: from whatever registry it comes, it is the same image.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, BuildError, DockerException, ImageNotFound

from components.core.errors import DataError, ParameterError, TryAgainError
from components.kubeflow.tree import ROOT

log = logging.getLogger(__name__)
LOCK = ROOT / "docker" / "images.lock.json"
VARIANTS = ("gpu", "cpu")
MIRRORS = {"nvidia/cuda": "nvcr.io/nvidia/cuda", "python": "public.ecr.aws/docker/library/python"}  # of base images
SBOM = "/opt/motion-enhancer/sbom.cdx.json"
_PINNED = re.compile(r"[\w.\-/:]+@sha256:[0-9a-f]{64}")


def pinned(reference: str, source: str) -> str:
    """Return the reference. Raises ParameterError: a tag, or nothing, where a digest is wanted."""
    if not _PINNED.fullmatch(reference):
        remedy = "give name@sha256:… (64 hex digits), not a tag"
        raise ParameterError(f"image {reference!r} is not pinned", source=source, remedy=remedy)
    return reference


def locked(file: Path = LOCK) -> dict[str, str]:
    """Return a lock's images by variant. Raises ParameterError: no lock, or it lacks a variant or pins one by tag."""
    if not file.is_file():
        remedy = "motion-enhancer images build, push and lock make it; or give --image NAME@sha256:…, or --local"
        raise ParameterError(f"no image to run in: no {file}", source="--lock", remedy=remedy)
    images: dict[str, str] = json.loads(file.read_text())
    if missing := set(VARIANTS) - set(images):
        remedy = "motion-enhancer images lock"
        raise ParameterError(f"no {', '.join(sorted(missing))} image", source=str(file), remedy=remedy)
    return {variant: pinned(images[variant], str(file)) for variant in VARIANTS}


@contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """Open the Docker engine that the environment names (`DOCKER_HOST`). Raises TryAgainError: no engine answers."""
    try:
        client = docker.from_env(timeout=3600)
        client.ping()
    except DockerException as error:
        remedy = "start it, or set DOCKER_HOST"
        raise TryAgainError(f"no Docker engine: {error}", source="DOCKER_HOST", remedy=remedy) from error
    try:
        yield client
    finally:
        client.close()


def build(
    client: docker.DockerClient, variant: str, name: str, overrides: Mapping[str, str], network: str | None = None
) -> str:
    """Build a variant, call it `name` (`repository:tag`), and return the image's id.

    `overrides` are build arguments in place of `docker/images.json`'s (BASE_IMAGE, TORCH, TORCH_INDEX); `network` is
    that of the build's commands, e.g. `host`.

    Its labels say which base it was made of. Raises ParameterError: no such variant or build argument; DataError: a
    command of the Dockerfile failed, with the log's end in the error, or as `base`.
    """
    known: dict[str, dict[str, str]] = json.loads((ROOT / "docker" / "images.json").read_text())
    if variant not in known:
        remedy = f"use one of {', '.join(VARIANTS)}"
        raise ParameterError(f"no image variant {variant!r}", source="command line", remedy=remedy)
    if unknown := set(overrides) - set(known[variant]):
        problem, remedy = f"unknown build argument {', '.join(sorted(unknown))}", f"known: {', '.join(known[variant])}"
        raise ParameterError(problem, source="--build-arg", remedy=remedy)
    arguments = {**known[variant], **overrides}
    labels = {"org.opencontainers.image.base.name": arguments["BASE_IMAGE"]}
    arguments["BASE_IMAGE"], digest = base(client, arguments["BASE_IMAGE"])
    labels |= {"org.opencontainers.image.base.digest": digest} if digest else {}
    log.info("%s: %s", variant, ", ".join(f"{key}={value}" for key, value in arguments.items()))
    head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    revision = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    arguments |= {"VARIANT": variant, "REVISION": revision}
    place = {"path": str(ROOT), "dockerfile": "docker/Dockerfile", "target": variant, "labels": labels}
    try:
        image, lines = client.images.build(**place, tag=name, buildargs=arguments, network_mode=network, rm=True)
    except BuildError as error:
        end = "".join(line.get("stream", "") for line in error.build_log)[-3000:]
        problem = f"the image was not built: {error.msg}\n{end}"
        raise DataError(problem, source="docker/Dockerfile", remedy="see the log above") from error
    for line in lines:
        log.debug("%s", line.get("stream", "").rstrip())
    return str(image.id)


def base(client: docker.DockerClient, reference: str) -> tuple[str, str]:
    """Find a base image, here, in its registry or with its digest in the mirror; return its name here and its digest.

    The digest is empty, with a warning, for an image that no registry holds.

    Raises DataError: no registry has it.
    """
    name, sign, digest = reference.partition("@")
    repository = name.rsplit(":", 1)[0] if ":" in name.rsplit("/", 1)[-1] else name
    # an engine looks an image up by its digest alone, or by its tag alone
    places = [f"{place}@{digest}" for place in (repository, MIRRORS.get(repository)) if place] if sign else [name]
    problems = []
    for place in places:
        image, problem = _here_or_pulled(client, place)
        if image is None:
            problems.append(f"{place}: {problem}")
            continue
        held = [item.split("@")[1] for item in image.attrs.get("RepoDigests") or []]
        found = digest or next(iter(held), "")
        if not sign:
            what = f"it is {found} today" if found else "no registry holds it"
            log.warning("%s is a tag, behind which another image may be tomorrow: %s", reference, what)
        return place, found
    remedy = "its tag or digest may have been deleted: --build-arg BASE_IMAGE=… names a copy of it, or another base "
    remedy += "with the same Python (docs/cluster.md)"
    raise DataError(f"no base image: {'; '.join(problems)}", source="docker/images.json", remedy=remedy)


def _here_or_pulled(client: docker.DockerClient, name: str) -> tuple[Any, str]:
    """Return an image, or None and what its registry says."""
    problem = ""
    try:
        return client.images.get(name), ""
    except ImageNotFound:
        log.info("pulling %s", name)
    try:
        for line in client.api.pull(name, stream=True, decode=True):
            problem = line.get("error", problem)
        return client.images.get(name), ""
    except APIError as error:
        return None, problem or str(error.explanation or error)


def software(client: docker.DockerClient, name: str, target: Path) -> Path:
    """Copy an image's bill of materials (CycloneDX JSON) to `target`."""
    container = client.containers.create(name, ["true"])  # never started
    try:
        stream, _ = container.get_archive(SBOM)
        with tempfile.TemporaryFile() as archive:
            archive.writelines(stream)
            archive.seek(0)
            with tarfile.open(fileobj=archive) as tar:
                member = tar.extractfile(Path(SBOM).name)
                assert member is not None
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(member.read())
    finally:
        container.remove(force=True)
    return target


def push(client: docker.DockerClient, name: str) -> str:
    """Push an image; return `repository@sha256:…` as the registry answered, or raise TryAgainError where it refused."""
    _image(client, name)
    digest = ""
    for line in client.images.push(name, stream=True, decode=True):
        if "error" in line:
            problem, remedy = f"{name} was not pushed: {line['error']}", "check its address and your login"
            raise TryAgainError(problem, source="the registry", remedy=remedy)
        digest = line.get("aux", {}).get("Digest", digest)
    return f"{name.rsplit(':', 1)[0]}@{digest}"


def lock(client: docker.DockerClient, names: Mapping[str, str], file: Path = LOCK) -> dict[str, str]:
    """Write the lock: for each variant, the digest under which the registry holds the image `names[variant]`.

    Raises DataError: an image is not here, or was never pushed to its repository.
    """
    images = {variant: _digest(client, name) for variant, name in names.items()}
    file.write_text(json.dumps(images, indent=2, sort_keys=True) + "\n")
    return images


def _digest(client: docker.DockerClient, name: str) -> str:
    known: list[str] = _image(client, name).attrs["RepoDigests"]
    repository = name.rsplit(":", 1)[0]
    found = [reference for reference in known if reference.startswith(f"{repository}@")]
    if len(found) != 1:
        problem = f"{name} has no one digest in {repository}: {known}"
        raise DataError(problem, source="the Docker engine", remedy="motion-enhancer images push")
    return pinned(found[0], name)


def _image(client: docker.DockerClient, name: str) -> Any:
    try:
        return client.images.get(name)
    except ImageNotFound as error:
        remedy = "motion-enhancer images build"
        raise DataError(f"no image {name}", source="the Docker engine", remedy=remedy) from error
