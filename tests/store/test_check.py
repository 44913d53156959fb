"""`store check` on both backends: each missing or damaged file with its unit, task and nonce; nothing is changed."""

from components.core import artifacts as a
from components.core.records import sha256
from tests.command import motion_enhancer
from tests.store.made_store import Made, paths


def test_check_names_file_unit_task_and_nonce(store, capsys):
    made = Made(store)
    digest, maps, video = made.priors(), made.maps.files, f"videos/{sha256(b'video')}.mp4"
    assert motion_enhancer("store", "check", "--store", store.uri) == 0
    assert "1 manifests, 6 files" in capsys.readouterr().out
    store.backend.delete(maps["statistics"].path)
    store.backend.put(video, b"videos")
    store.backend.put(made.prior.files["prior"].path, b"pRiorn")
    assert motion_enhancer("store", "check", "--store", store.uri, f"sha256:{digest}") == 3
    said = capsys.readouterr().out
    assert "made by attention_capture: set rerun_attention_capture" in said
    assert any(maps["statistics"].path in line and "missing" in line and "0" * 16 in line for line in said.splitlines())
    assert any(video in line and "6 bytes, not 5" in line for line in said.splitlines())
    assert "token_selection" not in said  # the size is right
    before = paths(store)
    assert motion_enhancer("store", "check", "--content", "--store", store.uri) == 3
    said = capsys.readouterr().out
    assert any(made.prior.files["prior"].path in line and "other content" in line for line in said.splitlines())
    assert "3 missing or damaged" in said
    assert paths(store) == before


def test_check_of_a_model_sees_its_own_files(store, capsys):
    made = Made(store)
    made.tuned()
    for role in ("log", "aligner", "model"):
        store.backend.delete(made.model.files[role].path)
    assert motion_enhancer("store", "check", "--store", store.uri) == 3
    said = capsys.readouterr().out
    assert "set rerun_sft" in said
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("  sft/")] == ["TunedModel"] * 3


def test_check_of_an_artifact_with_emptied_scratch(store, tmp_path, capsys):
    made = Made(store)
    line = made.prior_line()
    shared = {name: line[name] for name in ("video", "mask", "grid")}
    latents = made.trajectory.ref("latents", "ddim_inversion")
    line = a.TrajectoryLine(**shared, samples=[], key=made.trajectory.key, frames=[0], latents=latents, residual=0)
    found = a.Trajectories(kind="Trajectories", provenance={}, shard="0/1", lines=[line])
    (tmp_path / "trajectories").mkdir()
    (tmp_path / "trajectories" / "manifest.json").write_bytes(found.to_bytes())
    store.backend.delete(latents.path)
    assert motion_enhancer("store", "check", tmp_path / "trajectories", "--store", store.uri) == 0
    assert "1 trajectories are gone" in capsys.readouterr().out
    store.backend.put(latents.path, b"damaged")
    assert motion_enhancer("store", "check", tmp_path / "trajectories", "--store", store.uri) == 3
    assert "rerun_ddim_inversion" in capsys.readouterr().out


def test_check_of_nothing_and_of_damaged_manifests(store, capsys):
    made = Made(store)
    digest = made.priors()
    assert motion_enhancer("store", "check", "sha256:" + "0" * 64, "--store", store.uri) == 2
    store.backend.put(f"manifests/{digest}.json", b"{}")
    for arguments in ((), (digest,)):
        assert motion_enhancer("store", "check", *arguments, "--store", store.uri) == 3
        assert "differs from its name" in capsys.readouterr().err
