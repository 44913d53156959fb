"""The house's import rule: who may import whom, read from the source with `ast`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "components").rglob("*.py"))
SUBMITTING = {"orchestration", "plan"}


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def room(file: Path) -> str:
    return file.relative_to(ROOT / "components").parts[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_rule(file):
    names = imported(file)
    ours = {name.split(".")[1] for name in names if name.startswith("components.")}
    outside = {name.split(".")[0] for name in names}
    if room(file) == "core":
        assert ours <= {"core"}
        assert not outside & {"torch", "kfp", "transformers", "diffusers", "docker"}
    if room(file) in ("media", "models"):
        assert ours <= {"core", "media", "models"}
    if room(file) != "orchestration":
        assert not outside & {"kfp", "docker"}
        assert not outside & {"matplotlib", "scipy", "yaml"}  # of the extras: in no image
        assert "orchestration" not in ours
    if room(file) not in SUBMITTING and file.name != "__main__.py":
        steps = {name for name in names if name.startswith("components.") and name.split(".")[2:3] == ["step"]}
        assert {name for name in steps if name.split(".")[1] != "core"} == set()


def test_no_pickle_and_no_remote_code():
    for file in [*FILES, ROOT / "pipeline.py"]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("torch.load", "torch.save", "pickle.load", "pickle.loads"), file
                assert not any(keyword.arg == "trust_remote_code" for keyword in node.keywords), file


def test_declarations_import_no_torch():
    steps = [file.parent.name for file in (ROOT / "components").glob("*/step.py") if file.parent.name != "core"]
    imports = "\n".join(f"import components.{step}.step" for step in steps)
    code = f"import sys\n{imports}\nprint([m for m in ('torch','transformers','diffusers') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert answer.stdout.strip() == "[]"
