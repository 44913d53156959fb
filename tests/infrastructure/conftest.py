"""Tests against the services of `.ci/services` (Docker engine, registry, S3 server), without which they fail."""

import os
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlparse

import pytest
from minio import Minio, S3Error

from tests.command import python

BUCKET = "motion-enhancer"
WANTED = ("DOCKER_HOST", "REGISTRY", "BASE_IMAGE", "TORCH_INDEX", "S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY")
CANARY = "canary-7f3e9b1c5d2a4860"  # a secret that a process here knows and that must turn up nowhere


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.infrastructure)


@pytest.fixture(scope="session")
def services():
    """Addresses of the services; they are in the environment once `.ci/infrastructure` has started them."""
    missing = [name for name in WANTED if not os.environ.get(name)]
    if missing:
        pytest.fail(f"no {', '.join(missing)} in the environment: run `.ci/infrastructure`, which starts the services")
    return SimpleNamespace(**{name.lower(): os.environ[name] for name in WANTED})


def motion_enhancer(*arguments, check=True, **environment):
    """The command line in a process of its own, with the canary in its environment."""
    code = 0 if check else None
    return python("-m", "components.cli", *arguments, code=code, **{"HF_TOKEN": CANARY, **environment})


@pytest.fixture(scope="session")
def lock(services, tmp_path_factory):
    """Both images, built from this checkout on the services' base image, pushed, and locked by digest.

    The first of several processes that share a folder IMAGES does it for all.
    """
    folder = Path(os.environ.get("IMAGES") or tmp_path_factory.mktemp("images"))
    if (folder / "images.lock.json").exists():
        return folder / "images.lock.json"
    repository = ("--repository", f"{services.registry}/motion-enhancer")
    given = (f"BASE_IMAGE={services.base_image}", "TORCH=2.13.0+cpu", f"TORCH_INDEX={services.torch_index}")
    arguments = [word for item in given for word in ("--build-arg", item)]
    motion_enhancer("images", "build", *repository, *arguments, "--network", "host", "--sbom", folder)
    motion_enhancer("images", "push", *repository)
    motion_enhancer("images", "lock", *repository, "-o", folder / "images.lock.json")
    return folder / "images.lock.json"


@pytest.fixture(scope="session")
def s3(services):
    """A client of the S3 server, with the bucket there."""
    endpoint = urlparse(services.s3_endpoint).netloc
    client = Minio(endpoint, services.s3_access_key, services.s3_secret_key, secure=False, region="us-east-1")
    try:
        client.make_bucket(BUCKET)
    except S3Error as error:
        if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise
    return client


@pytest.fixture(scope="session")
def data(s3, tmp_path_factory):
    """The synthetic sets of `make smoke`, in the bucket: no container sees a folder of this machine."""
    folder = tmp_path_factory.mktemp("data")
    for preset, count, seed in (("scenes", 8, 1), ("bench", 12, 2)):
        motion_enhancer("synthesize", folder / preset, "--preset", preset, "--count", count, "--seed", seed)
    for file in folder.rglob("*"):
        if file.is_file():
            s3.fput_object(BUCKET, f"data/{file.relative_to(folder).as_posix()}", str(file))
    return f"minio://{BUCKET}/data"
