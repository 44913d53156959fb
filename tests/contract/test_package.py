"""The project as others install it: every file that the code reads is in it, and the commands work from elsewhere."""

import shutil
import zipfile
from pathlib import Path

import pytest

from components.kubeflow.tree import ROOT
from tests.command import python

PACKAGES = ("components", "motion_enhancer")
PIP = ["-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What the build reads, without leftovers of an earlier one."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "pipeline.py"):
        shutil.copy(ROOT / name, folder)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def files(folder):
    """Files of the packages in a folder, without those that only people read."""
    paths = {path.relative_to(folder) for name in PACKAGES for path in (folder / name).rglob("*") if path.is_file()}
    return {str(path) for path in paths if path.name != "README.md" and not {"__pycache__", "larger"} & {*path.parts}}


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory):
    """A folder with nothing but this project, by `pip install .`."""
    target = tmp_path_factory.mktemp("installed")
    python(*PIP, "install", *OFFLINE, "--no-compile", "--target", target, ".", cwd=source)
    return target


def test_the_package_holds_every_file(source, installed):
    assert (installed / "pipeline.py").is_file()
    assert files(installed) == files(source)


def test_a_wheel_holds_the_same(source, installed, tmp_path):
    python(*PIP, "wheel", *OFFLINE, "--wheel-dir", tmp_path, ".", cwd=source)
    (wheel,) = tmp_path.glob("motion_enhancer-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name for name in names if not name.endswith("README.md")} == files(installed) | {"pipeline.py"}


def test_it_works_outside_of_the_checkout(installed, tmp_path):
    def run(*words):
        return python(*words, cwd=tmp_path, PYTHONPATH=str(installed)).stdout

    assert Path(run("-c", "import components; print(components.__file__)")).is_relative_to(installed)
    program, image = installed / "bin" / "motion-enhancer", f"registry.example/steps@sha256:{'0' * 64}"
    run(program, "compile", "motion_priors", "-o", "made.yaml", "--image", image)
    assert "attention-capture" in (tmp_path / "made.yaml").read_text()
    run(program, "synthesize", "clips", "--preset", "scenes", "--count", "2")
    assert len(list((tmp_path / "clips").rglob("*.mp4"))) == 2
