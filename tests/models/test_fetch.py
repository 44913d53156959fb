"""Fetching checkpoints from a hub with the real protocol: whole and recorded or absent, and a remedy for each fault."""

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from components.core.errors import ParameterError, TryAgainError
from components.models import fetch as module
from components.models.fetch import fetch
from components.models.registry import CHECKPOINTS, RECORD, ensure_tiny, resolve
from components.store.entries import Store, hash_file
from tests.command import motion_enhancer, python
from tests.hub_server import hub_server
from tests.s3_server import closed_port

NAME = "cogvideox-5b"
KNOWN = CHECKPOINTS[NAME]
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
UNWANTED = ["pytorch_model.bin", "weights.pt", "modeling.py", "README.md", ".gitattributes", ".hidden/config.json"]
UNWANTED += ["LICENSE.py", "vae/LICENSE-weights.bin"]


@pytest.fixture
def upstream(tmp_path):
    """A repository with a twin's files, and some that nobody should take."""
    folder = tmp_path / "upstream"
    shutil.copytree(ensure_tiny("tiny-cogvideox"), folder)
    for path in UNWANTED:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(b"no")
    for name in ("LICENSE", "LICENSE-MODEL.md", "vae/LICENSE"):
        (folder / name).write_text("free")
    return folder


@pytest.fixture
def hub(upstream, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with hub_server(upstream, KNOWN.repository, KNOWN.revision) as hub:
        yield hub


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def files(folder):
    return {item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file()}


def visible(root):
    return sorted(item.name for item in root.iterdir() if not item.name.startswith(".lock"))


def test_a_checkpoint_arrives_whole_recorded_and_without_pickle_or_code(hub, upstream, root, store):
    folder = fetch(NAME, root)
    assert files(folder) == files(upstream) - set(UNWANTED) | {RECORD}
    record, arrived = json.loads((folder / RECORD).read_bytes()), files(folder) - {RECORD}
    assert (record["repository"], record["revision"]) == (KNOWN.repository, KNOWN.revision)
    assert record["files"] == {path: [(upstream / path).stat().st_size, hash_file(upstream / path)] for path in arrived}
    assert all(hash_file(folder / path) == digest for path, (_, digest) in record["files"].items())
    assert visible(root) == [NAME]
    found = resolve(NAME, store)
    assert (found.path, found.id.name, found.id.digest) == (folder, NAME, KNOWN.revision)
    assert list(store.backend.walk()) == []  # nothing was hashed
    hub.requests.clear()
    fetch(NAME, root)
    assert hub.requests == []


def test_a_download_that_broke_goes_on_where_it_stopped(hub, root, upstream):
    broken = {"now": True}
    hub.fault = lambda method, path: 503 if broken["now"] and method == "GET" and path.endswith(WEIGHTS) else None
    with pytest.raises(TryAgainError, match="503") as caught:
        fetch(NAME, root)
    assert caught.value.exit_code == 75
    assert visible(root) == [f".partial-{NAME}"]
    before = set(hub.downloads()) - {WEIGHTS}
    assert before
    broken["now"] = False
    hub.requests.clear()
    fetch(NAME, root)
    assert WEIGHTS in hub.downloads()
    assert not before & set(hub.downloads())
    assert hash_file(root / NAME / WEIGHTS) == hash_file(upstream / WEIGHTS)


def test_a_connection_that_breaks_in_a_file_is_mended_at_once(hub, root, upstream):
    breaks = [-1000]
    hub.fault = lambda method, path: breaks.pop() if breaks and method == "GET" and path.endswith(WEIGHTS) else None
    fetch(NAME, root)
    assert hash_file(root / NAME / WEIGHTS) == hash_file(upstream / WEIGHTS)
    assert hub.downloads().count(WEIGHTS) == 2


def test_a_file_with_other_content_never_arrives(hub, root):
    """Same size, another hash than the hub lists: a broken proxy, a broken disk."""
    honest = hub.entry

    def other(file):
        entry = honest(file)
        if file.name == "model_index.json":
            return entry | {"oid": "0" * 40}
        return entry | {"lfs": entry["lfs"] | {"oid": "0" * 64}} if file == hub.folder / WEIGHTS else entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "entry", other)
        with pytest.raises(TryAgainError, match=r"2 files of .* arrived damaged, model_index\.json"):
            fetch(NAME, root)
    assert visible(root) == [f".partial-{NAME}"]
    hub.requests.clear()
    fetch(NAME, root)
    assert [path for path in hub.downloads() if path.endswith(".safetensors")] == [WEIGHTS]
    assert visible(root) == [NAME]


def test_two_at_once_download_once(hub, root):
    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(lambda _: fetch(NAME, root), range(3)))
    assert ended == [root / NAME] * 3
    assert len(hub.downloads()) == len(set(hub.downloads()))
    assert visible(root) == [NAME]


# What is there already ------------------------------------------------------------------------------------------------


def test_a_damaged_folder_is_refused_and_only_the_damage_comes_anew(hub, root, store):
    folder = fetch(NAME, root)
    (folder / WEIGHTS).write_bytes(b"short")
    with pytest.raises(ParameterError, match=r"1 of .* files are missing or cut off") as caught:
        resolve(NAME, store)
    assert f"models fetch {NAME}" in caught.value.remedy
    hub.requests.clear()
    fetch(NAME, root)
    assert WEIGHTS in hub.downloads()
    assert not any(path.endswith(".safetensors") for path in hub.downloads() if path != WEIGHTS)
    assert resolve(NAME, store).id.digest == KNOWN.revision


def test_another_commit_is_refused_and_replaced(hub, root, store, monkeypatch):
    folder = fetch(NAME, root)
    record = json.loads((folder / RECORD).read_bytes()) | {"revision": "1" * 40}
    (folder / RECORD).write_text(json.dumps(record))
    (folder / "of_that_commit.json").write_text("{}")
    with pytest.raises(ParameterError, match=f"at {'1' * 40}, the registry pins"):
        resolve(NAME, store)
    fetch(NAME, root)
    assert resolve(NAME, store).id.digest == KNOWN.revision
    assert not (folder / "of_that_commit.json").exists()
    assert visible(root) == [NAME]


def test_leftovers_of_an_earlier_commit_do_not_come_along(hub, root):
    partial = root / f".partial-{NAME}"
    (partial / "vae").mkdir(parents=True)
    (partial / "vae" / "of_an_earlier_commit.json").write_text("{}")
    (partial / "model_index.json").write_text("{}")
    assert "vae/of_an_earlier_commit.json" not in files(fetch(NAME, root))
    assert (root / NAME / "model_index.json").read_text() != "{}"


def test_a_folder_put_there_by_hand_runs_by_its_content_and_is_left_alone(hub, upstream, root, store, caplog):
    shutil.copytree(upstream, root / NAME)
    by_hand = resolve(NAME, store).id
    assert (by_hand.name, len(by_hand.digest)) == (NAME, 64)
    assert by_hand.digest == resolve(str(upstream), store).id.digest
    fetch(NAME, root)
    assert hub.requests == []
    assert "by hand" in caplog.text
    assert files(root / NAME) == files(upstream)


def test_a_record_that_cannot_be_read(root, store):
    (root / NAME).mkdir(parents=True)
    (root / NAME / RECORD).write_text("{")
    for action in (lambda: resolve(NAME, store), lambda: fetch(NAME, root)):
        with pytest.raises(ParameterError, match="does not validate"):
            action()


# Faults ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "where"), [(401, "tree"), (403, "resolve"), (404, "tree"), (401, "resolve")])
def test_a_gated_repository_names_its_licence_page(hub, root, monkeypatch, caplog, status, where):
    monkeypatch.setenv("HF_TOKEN", "hf_canary_0123456789")
    hub.fault = lambda method, path: status if f"/{where}/" in path else None
    caplog.set_level("DEBUG")
    with pytest.raises(ParameterError, match=f"status {status}") as caught:
        fetch(NAME, root)
    assert f"https://huggingface.co/{KNOWN.repository}" in caught.value.remedy
    assert "HF_TOKEN" in caught.value.remedy
    assert any(sent == "Bearer hf_canary_0123456789" for _, _, sent in hub.requests)  # it was used
    assert "hf_canary" not in str(caught.value) + caplog.text


def test_a_commit_that_the_hub_does_not_know(upstream, root):
    unknown = pytest.raises(ParameterError, match=f"no commit {KNOWN.revision}")
    with hub_server(upstream, KNOWN.repository, "f" * 40), unknown:
        fetch(NAME, root)


@pytest.mark.parametrize("where", ["tree", "resolve"])
def test_a_hub_that_is_down(hub, root, where, monkeypatch):
    for status in (429, 500):
        hub.fault = lambda method, path, status=status: status if f"/{where}/" in path else None
        with pytest.raises(TryAgainError, match=f"answered {status}"):
            fetch(NAME, root)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(TryAgainError, match="did not answer"):
        fetch(NAME, root)


def test_a_disk_that_is_too_small_or_fills_up(hub, root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(TryAgainError, match=r"B to come, 1 kB free"):
            fetch(NAME, root)
    assert hub.downloads() == []  # it is noticed before the download

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(TryAgainError, match="no space left"):
        fetch(NAME, root)


def test_what_cannot_be_fetched(hub, upstream, root, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ParameterError, match="cannot write"):
        fetch(NAME, tmp_path / "file" / "models")
    with pytest.raises(ParameterError, match="no checkpoint 'cogvideo'") as caught:
        fetch("cogvideo", root)
    assert NAME in caught.value.remedy
    for file in upstream.rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(ParameterError, match="no safetensors"):
        fetch(NAME, root)


def test_progress_is_a_log_line_per_30_s_where_there_is_no_terminal(caplog, capsys, monkeypatch):
    monkeypatch.setattr(module._LogProgress, "logged", float("-inf"))
    caplog.set_level("INFO", module.__name__)
    with module._LogProgress(total=100, unit="B", desc="Downloading bytes") as bar:
        for _ in range(2):
            bar.update(25)
            bar.refresh()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("Downloading bytes:  25%")
    assert capsys.readouterr() == ("", "")


# As it is run ---------------------------------------------------------------------------------------------------------


def run(**more):
    return python("-m", "components.models.fetch", code=None, **{"HF_HUB_OFFLINE": "0", **more})


def test_as_the_job_runs_it(hub, root, tmp_path):
    home = str(tmp_path / "home")
    answer = run(MODELS=NAME, HF_TOKEN="hf_canary_0123456789", HF_HOME=home)
    assert answer.returncode == 0, answer.stderr
    assert (root / NAME / RECORD).is_file()
    assert "hf_canary" not in answer.stdout + answer.stderr
    assert "/resolve/" not in answer.stderr
    assert run(MODELS=NAME, HF_HUB_OFFLINE="1").returncode == 0  # it is there
    assert run(MODELS="qwen2.5-vl-3b", HF_HUB_OFFLINE="1").returncode == 2
    for models in ("", "nothing-like-it"):
        answer = run(MODELS=models)
        assert (answer.returncode, "remedy" in answer.stderr) == (2, True)


def test_the_command(hub, root, capsys):
    assert motion_enhancer("models", "fetch", NAME) == 0
    assert capsys.readouterr().out == f"{root / NAME}\n"
    assert motion_enhancer("models", "fetch", "no-such-model") == 2
