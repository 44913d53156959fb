"""`kubectl` as it is installed, and the objects that it makes of a kustomization. Nothing here needs a cluster."""

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
NEEDS = "the manifests' tests need kubectl 1.29 or newer, on PATH or named by the variable KUBECTL"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.infrastructure)  # no newcomer's machine need have kubectl


@pytest.fixture(scope="session")
def kubectl():
    found = os.environ.get("KUBECTL") or shutil.which("kubectl")
    if not found or not shutil.which(found):
        pytest.fail(f"{NEEDS}; found {found or 'none'}")
    asked = subprocess.run([found, "version", "--client", "-o", "json"], capture_output=True, text=True, check=True)
    version = json.loads(asked.stdout)["clientVersion"]
    if (int(version["major"]), int(version["minor"].rstrip("+"))) < (1, 29):
        pytest.fail(f"{NEEDS}; {found} is {version['gitVersion']}")
    return found


@pytest.fixture(scope="session")
def build(kubectl):
    """Function from a kustomization's folder to its objects; a build that fails or warns fails the test."""

    @functools.cache
    def built(folder):
        done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return [item for item in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if item]

    return built


@pytest.fixture
def tree(tmp_path):
    """A copy of the manifests that a test may change, without secrets that somebody has written into the original."""
    return shutil.copytree(MANIFESTS, tmp_path / "manifests", ignore=shutil.ignore_patterns("*.env"))
