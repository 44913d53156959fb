"""The layers of pyproject.toml, no circle between files, and what no file may import or call."""

import ast
import graphlib

import grimp
import pytest

from components.kubeflow.tree import ROOT
from components.steps import STEPS
from tests.command import python

SOURCE = ("components", "motion_enhancer")
FILES = [ROOT / "pipeline.py", *(file for folder in SOURCE for file in sorted((ROOT / folder).rglob("*.py")))]
# packages that the images of the steps lack
ABSENT = {"kfp", "docker", "matplotlib", "scipy", "yaml", "typer"}


def test_layers():
    """In a process of its own, since import-linter disables the loggers of the process that it runs in."""
    answer = python("-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))")
    assert answer.returncode == 0, answer.stdout


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(*SOURCE, include_external_packages=True, cache_dir=None)


def test_no_circle_between_files(graph):
    ours = {name for name in graph.modules if name.split(".")[0] in SOURCE}
    order = graphlib.TopologicalSorter({name: graph.find_modules_directly_imported_by(name) & ours for name in ours})
    order.prepare()  # raises CycleError with the circle


def test_no_step_imports_the_step_or_page_of_another(graph):
    for name in STEPS:
        own = f"components.{name}"
        for module in {own, *graph.find_descendants(own)}:
            for found in graph.find_modules_directly_imported_by(module):
                if found.split(".")[1:2] and found.split(".")[1] in STEPS and not found.startswith(f"{own}."):
                    assert found.split(".")[-1] not in ("step", "page", "pictures"), f"{module} imports {found}"


def test_packages_that_images_lack_and_core_without_torch(graph):
    for module in graph.find_descendants("components"):
        outside = {found.split(".")[0] for found in graph.find_modules_directly_imported_by(module)}
        room = module.split(".")[1]
        assert room in ("kubeflow", "cli") or not outside & ABSENT, module
        assert room != "core" or not outside & {"torch", "transformers", "diffusers"}, module


def test_no_pickle_and_no_remote_code():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("torch.load", "torch.save", "pickle.load", "pickle.loads"), file
                assert not any(keyword.arg == "trust_remote_code" for keyword in node.keywords), file


def test_declarations_import_no_torch():
    imports = "\n".join(f"import components.{step}.step" for step in STEPS)
    code = f"import sys\n{imports}\nprint([m for m in ('torch', 'transformers', 'diffusers') if m in sys.modules])"
    assert python("-c", code).stdout.strip() == "[]"


def test_every_step_is_listed():
    assert {file.parent.name for file in (ROOT / "components").glob("*/step.py")} == set(STEPS)
