"""The registry: published checkpoints are pinned, a folder's digest is of its content, errors name the remedy."""

import re
import shutil

import pytest

from components.core.errors import ParameterError
from components.models.registry import CHECKPOINTS, resolve
from components.store.entries import Store


@pytest.fixture
def store(tmp_path):
    return Store(f"file://{tmp_path}/store")


def test_every_checkpoint_is_pinned_by_commit():
    assert all(re.fullmatch(r"[0-9a-f]{40}", checkpoint.revision) for checkpoint in CHECKPOINTS.values())
    assert len({checkpoint.revision for checkpoint in CHECKPOINTS.values()}) == len(CHECKPOINTS)


def test_a_folders_digest_is_its_content(tmp_path, store):
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "transformer").mkdir(parents=True)
    (one / "transformer" / "config.json").write_text("{}")
    shutil.copytree(one, other)
    (other / ".cache").mkdir()
    (other / ".cache" / "download.metadata").write_text("1700000000.0")
    assert resolve(str(one), store).id.digest == resolve(str(other), store).id.digest
    (other / "transformer" / "config.json").write_text('{"changed": 1}')
    assert resolve(str(one), store).id.digest != resolve(str(other), store).id.digest


def test_what_a_link_leads_to_is_content(tmp_path, store):
    """Links to folders, and to files as a hub's cache lays them out; the digest is that of plain files, as ever."""
    plain, linked, weights = tmp_path / "plain", tmp_path / "linked", tmp_path / "weights"
    for folder in (plain / "transformer", weights, linked):
        folder.mkdir(parents=True)
    (plain / "transformer" / "config.json").write_text("{}")
    (plain / "transformer-extra.json").write_text("1")
    (weights / "config.json").symlink_to(plain / "transformer" / "config.json")
    (linked / "transformer").symlink_to(weights)
    (linked / "transformer-extra.json").symlink_to(plain / "transformer-extra.json")
    (linked / "again").symlink_to(linked)
    found = {resolve(str(folder), store).id.digest for folder in (plain, linked)}
    assert found == {"8d9ad5602fc417647bb7983a8a9d859e846fe1cfae12195eb7cc5925ac79135a"}
    (weights / "config.json").unlink()
    (weights / "config.json").write_text('{"changed": 1}')
    assert resolve(str(linked), store).id.digest not in found


def test_a_missing_checkpoint_names_what_to_fetch(tmp_path, store, monkeypatch):
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    with pytest.raises(ParameterError, match=r"zai-org/CogVideoX-5b at 8d6ea3f8"):
        resolve("cogvideox-5b", store)
    with pytest.raises(
        ParameterError, match=r"use a folder or one of: scenes-cogvideox, scenes-qwen2.5-vl, tiny-cogvideox"
    ):
        resolve("cogvideo", store)
