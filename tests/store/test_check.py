"""`store check` on both backends: each missing or damaged file with its unit, task and nonce; nothing is changed."""

import gzip
import weakref

import pytest

from components.cli.store import _show as show
from components.core import artifacts as a
from components.core.lines import part_path
from components.core.records import sha256
from components.store.check import check
from tests.command import motion_enhancer
from tests.runner import put_manifest
from tests.store.in_parts import in_parts
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
    put_manifest(tmp_path / "trajectories", found, store.uri)
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


def set_in_parts(store, *groups):
    """A prior set in parts."""
    return store.manifest(in_parts(store, *groups, heads=[], saturation={})[0], a.PriorSet)


def of_sample(made, number):
    """A line of a sample of its own, with a prior of its own."""
    work = made.work("token_selection", f"sample {number}", {"attention": made.maps.key}, prior=b"p", per_frame=b"f")
    own = {role: work.ref(role, "token_selection") for role in ("prior", "per_frame")}
    line = made.prior_line(key=work.key, **own)
    line = a.PriorLine(**{**line, "sample": line["sample"].model_copy(update={"id": f"{number:016x}"})})
    return line, line.video


def test_lines_are_looked_at_one_at_a_time(store, monkeypatch):
    made, known, alive = Made(store), [], []
    validate = a.PriorLine.model_validate

    def counted(raw):
        line = validate(raw)
        known.append(weakref.ref(line))
        alive.append(sum(one() is not None for one in known))
        return line

    priors = set_in_parts(store, [of_sample(made, number) for number in range(20)], [of_sample(made, 20)])
    monkeypatch.setattr(a.PriorLine, "model_validate", counted)
    found = check(store, iter([priors]))
    assert (found.manifests, found.files, found.damages) == (1, 4 + 2 * 21, [])
    assert len(alive) == 21
    assert max(alive) <= 2
    store.backend.delete(made.maps.files["statistics"].path)
    (damage,) = check(store, [priors, priors]).damages
    assert damage.units == [f"{number:016x}" for number in range(21)]


@pytest.mark.parametrize(("data", "problem"), [(None, "missing"), (b"damaged", "damaged"), (b"", "other content")])
def test_a_part_that_cannot_be_read_is_a_finding(store, capsys, data, problem):
    made = Made(store)
    digest, broken = made.priors(), set_in_parts(store, [of_sample(made, 1)])
    path = part_path([*broken.blobs()][1].sha256)
    if data is None:
        store.backend.delete(path)
    else:
        store.backend.put(path, data or gzip.compress(data))
    found = check(store, [broken, store.manifest(digest, a.PriorSet), broken])
    assert [(damage.path, damage.problem) for damage in found.damages] == [(path, problem)]
    assert (found.manifests, found.files) == (3, 6)  # what the other one names is looked at all the same
    show(store, found, content=False)
    said = capsys.readouterr().out
    assert "parts of manifests: set rerun_… of the task that published it" in said
    assert any(path in line and problem in line and "PriorSet" in line for line in said.splitlines())
