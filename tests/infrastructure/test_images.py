"""What is inside an image and what is not, and that it works as a numeric user on a read-only root."""

import json
import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from components.core.errors import DataError
from components.kubeflow import images
from components.kubeflow.images import locked
from components.kubeflow.tree import ROOT
from components.steps import STEPS


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def image(request, lock):
    """An image by digest, pulled from the registry by the engine that built it."""
    client = docker.from_env(timeout=600)
    return client.images.get(locked(lock)[request.param]), request.param


def inside(image, *command):
    """Output of a command in a container that is as confined as a step's."""
    client = docker.from_env(timeout=600)
    confined = {"tmpfs": {"/tmp": "mode=1777"}, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
    given = {"remove": True, "read_only": True, "network_mode": "none", "stderr": True, **confined}
    return client.containers.run(image, list(command), **given).decode()


def test_the_steps_and_nothing_of_the_submitting_side(image):
    files = inside(image[0], "ls", "/opt/motion-enhancer", "/opt/motion-enhancer/components").split()
    assert {*STEPS, "core", "media", "models", "sbom.cdx.json"} <= set(files)
    assert not {"kubeflow", "cli", "pipeline.py", "tests", "docker"} & set(files)
    absent = ("kfp", "docker", "pytest", "pip")
    code = f"import importlib.util as u; print([name for name in {absent} if u.find_spec(name)])"
    assert inside(image[0], "python", "-c", code).strip() == "[]"


def test_no_compiler_and_no_package_manager(image):
    names = "gcc cc g++ clang make apt apt-get dpkg pip pip3"
    script = f"for name in {names}; do command -v $name && exit 1; done; echo none"
    assert inside(image[0], "sh", "-c", script).strip() == "none"


def test_numeric_user_and_read_only_root(image):
    assert image[0].attrs["Config"]["User"] == "65532:65532"
    assert not image[0].attrs["Config"]["Entrypoint"]
    paths = ("/", "/opt/motion-enhancer", "/opt/venv", "/root", "/usr")
    code = f"import os; print(os.getuid(), [path for path in {paths} if os.access(path, os.W_OK)])"
    assert inside(image[0], "python", "-c", code).strip() == "65532 []"


@pytest.mark.parametrize("step", STEPS)
def test_every_step_imports_with_its_torch(image, step):
    code = f"import components.{step}.step, torch, diffusers, transformers, av; print(torch.__version__)"
    if step in ("plan", "sft"):  # two are enough for the heavy imports
        assert inside(image[0], "python", "-c", code).strip().endswith("2.13.0+cpu")
    else:
        inside(image[0], "python", "-c", f"import components.{step}.step")


def test_labels_and_bill_of_materials(image, lock):
    labels = image[0].attrs["Config"]["Labels"]
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    assert labels["io.motion-enhancer.variant"] == image[1]
    assert labels["org.opencontainers.image.base.name"] == os.environ["BASE_IMAGE"]
    assert labels["org.opencontainers.image.revision"] == head
    listed = json.loads((lock.parent / f"{image[1]}.cdx.json").read_text())
    assert listed["bomFormat"] == "CycloneDX"
    versions = {item["name"].lower().replace("_", "-"): item["version"] for item in listed["components"]}
    lines = (ROOT / f"docker/requirements-{image[1]}.txt").read_text().splitlines()
    wanted = dict(line.split(" ")[0].split("==") for line in lines if line[:1].isalnum())
    others = {name for name in wanted if versions.get(name) != wanted[name]}
    # torch pins sympy, and the torch here is not the lock's
    assert others <= ({"sympy"} if image[1] == "gpu" else set())
    assert versions["torch"] == "2.13.0+cpu"


def test_a_base_image_is_pulled_by_digest_also_from_a_mirror(services, monkeypatch, caplog):
    """From a registry that has it, after one that has not; the engine is the real one."""
    client = docker.from_env(timeout=600)
    name = f"{services.registry}/mirror/base"
    client.images.get(services.base_image).tag(name, "1")
    reference = images.push(client, f"{name}:1")
    digest = reference.split("@")[1]
    client.images.remove(f"{name}:1")
    monkeypatch.setitem(images.MIRRORS, f"{services.registry}/absent/base", name)
    assert images.base(client, f"{services.registry}/absent/base:1@{digest}") == (reference, digest)
    assert client.images.get(reference).id == client.images.get(services.base_image).id
    assert images.base(client, f"{name}:1") == (f"{name}:1", digest)
    assert f"it is {digest} today" in caplog.text
    with pytest.raises(DataError, match="no base image"):
        images.base(client, f"{services.registry}/absent/other@{digest}")


def test_hadolint_finds_nothing():
    command = [Path(sys.executable).with_name("hadolint"), ROOT / "docker/Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
