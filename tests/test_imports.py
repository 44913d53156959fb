"""Every module of the images imports with the CUDA image's packages alone: `make test-shipped` has their versions."""

from components.kubeflow.tree import ROOT
from tests.command import python

LEFT_OUT = {  # of the images, and why
    "components.kubeflow": "needs kfp and docker; what compiles and submits stays with who submits",
    "components.cli": "the command line of who submits: needs typer and components.kubeflow",
}
IMPORT_ALL = f"""
import importlib, pathlib, pkgutil, re, sys
from importlib.metadata import packages_distributions
import components

locked = set(re.findall(r"(?m)^([a-z][\\w-]*)==", pathlib.Path("docker/requirements-gpu.txt").read_text()))
held = locked | {{"torch", "setuptools", "motion-enhancer"}}
for package, names in packages_distributions().items():
    if not any(re.sub("[-_.]+", "-", name).lower() in held for name in names):
        sys.modules[package] = None  # what tests need and an image lacks
failed = []
for found in pkgutil.walk_packages(components.__path__, "components.", onerror=failed.append):
    if not found.name.startswith({tuple(LEFT_OUT)}):
        try:
            importlib.import_module(found.name)
        except Exception as error:
            failed.append(f"{{found.name}}: {{type(error).__name__}}: {{error}}")
print(*failed, sep="\\n")
"""


def test_every_module_imports():
    assert python("-c", IMPORT_ALL).stdout.splitlines() == [""]


def test_what_is_left_out_is_what_the_images_lack():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = {line.replace("/", ".") for line in lines if line.startswith("components/")}
    assert ignored == set(LEFT_OUT)
