"""The workflows of GitHub: they parse, actions are pinned by commit, and what they call is in this repository."""

import re

import pytest
import yaml

from components.kubeflow.tree import ROOT

FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_workflow_is_pinned_and_calls_what_there_is(file):
    targets = set(re.findall(r"^([\w./-]+(?: [\w./-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {name for line in targets for name in line.split()}
    workflow = yaml.safe_load(file.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
            elif step["run"].startswith("make "):
                assert step["run"].removeprefix("make ") in made
            elif step["run"].startswith("bash "):
                assert (ROOT / step["run"].removeprefix("bash ")).is_file()
