"""Whether the code of a checkout was edited: what git says, and what it does not say."""

import subprocess

import pytest

from components.core.errors import ParameterError
from components.kubeflow.tree import tree_is_dirty


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A committed tree, apart from this machine's git settings."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (tmp_path / "components").mkdir()
    for name in ("components/code.py", "pipeline.py", "README.md"):
        (tmp_path / name).write_text("1")
    for command in ("init -q", "add .", "-c user.name=n -c user.email=e commit -q -m m"):
        subprocess.run(["git", "-C", str(tmp_path), *command.split()], check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "dirty"),
    [("components/code.py", True), ("pipeline.py", True), ("components/new.py", True), ("README.md", False)],
)
def test_code_counts_and_nothing_else(checkout, name, dirty):
    assert tree_is_dirty(checkout) is False
    (checkout / name).write_text("2")
    assert tree_is_dirty(checkout) is dirty


def test_a_checkout_that_git_does_not_look_at_is_not_taken_for_clean(checkout, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(ParameterError, match="dubious ownership") as caught:
        tree_is_dirty(checkout)
    assert f"safe.directory {checkout}" in caught.value.remedy


def test_code_without_a_checkout_or_without_git_is_as_it_was_made(checkout, tmp_path_factory, monkeypatch):
    assert tree_is_dirty(tmp_path_factory.mktemp("image")) is False
    (checkout / "pipeline.py").write_text("2")
    monkeypatch.setenv("PATH", str(checkout))
    assert tree_is_dirty(checkout) is False
