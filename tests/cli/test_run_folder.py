"""From one run to the next command: with uncommitted changes, and where a run's folder names store and outputs."""

import os
import re
import shlex
import shutil
import subprocess

import pytest

from components.cli.run_folder import Output, find_manifest, read_record, write_record
from components.core.errors import DataError, ParameterError
from components.core.records import sha256
from components.kubeflow.tree import ROOT
from components.prior_set.reading import read_priors
from components.store.entries import Store
from tests.command import motion_enhancer, python

SETTINGS = "--vdm tiny-cogvideox --native-size --shards 1 --set num_steps=2 --set params_attention_capture.pictures=0"


@pytest.fixture
def edited(tmp_path_factory):
    """A checkout of this code in which a comment was added after the commit."""
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "components", checkout / "components", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pipeline.py", checkout)
    for command in ("init -q", "add .", "-c user.name=n -c user.email=e commit -q -m m"):
        subprocess.run(["git", "-C", str(checkout), *command.split()], check=True)
    with (checkout / "components/head_selection/step.py").open("a") as file:
        file.write("# a comment\n")
    return checkout


@pytest.mark.recipes
def test_the_first_recipe_with_uncommitted_changes(edited, tmp_path, capsys, caplog, monkeypatch):
    def cli(arguments):
        words = shlex.split(arguments)
        return python("-m", "components.cli", *words, cwd=tmp_path, PYTHONPATH=str(edited)).stdout

    monkeypatch.chdir(tmp_path)
    assert motion_enhancer("synthesize", "clips", "--count", 2) == 0
    printed = cli(f"run motion_priors --out runs/mine --source clips {SETTINGS}")
    first, *_, last = printed.strip().splitlines()
    (part,) = re.findall(r"^Uncommitted changes .* kept under (dev-[0-9a-f]{16}) ", first)
    uri = (tmp_path / "runs/mine/store").as_uri()
    assert f"store   {uri}/{part}\n" in printed
    (digest,) = set(re.findall(r"sha256:[0-9a-f]{64}", printed))
    assert f"motion-enhancer run fine_tune --out runs/mine --priors {digest} --benchmark motionbench=DIR" in last
    assert cli(f"store check --store {uri}").endswith("sizes compared: 0 missing or damaged\n")
    # from here on with other code, as after a commit or another edit
    (export,) = re.findall(r"^next +motion-enhancer (export .*) priors$", printed, re.MULTILINE)
    (artifact,) = (tmp_path / "runs/mine").glob("artifacts/*/prior-set/priors")
    for number, command in enumerate((export, f"export {artifact} --store {uri}", f"export {digest} --store {uri}")):
        assert motion_enhancer(*shlex.split(command), f"{number}") == 0
        found = list(read_priors(tmp_path / f"{number}"))
        assert (len(found), all(prior.video.is_file() for prior in found)) == (2, True)
    for what in (["runs/mine"], [digest, "--store", uri]):
        assert motion_enhancer("inspect", *what) == 0
        assert motion_enhancer("store", "check", *what) == 0
    assert f"{uri}/{part} holds it" in caplog.text
    capsys.readouterr()
    assert motion_enhancer("import", "0", "--store", tmp_path / "other") == 0
    assert capsys.readouterr().out.strip() == digest


def test_the_newest_part_of_uncommitted_code_counts(tmp_path):
    data, parts = b'{"kind": "PriorSet"}', ("dev-b", "dev-c", "dev-a", "")
    path = f"manifests/{sha256(data)}.json"
    for age, part in enumerate(parts):
        Store(str(tmp_path / part)).backend.put(path, data)
        os.utime(tmp_path / part / path, (1000 - age, 1000 - age))
    for part in ("", "dev-b", "dev-c"):
        assert find_manifest(f"sha256:{sha256(data)}", str(tmp_path)).store.uri == (tmp_path / part).as_uri()
        (tmp_path / part / path).unlink()


def test_a_run_folder_may_be_moved_and_keeps_outputs_of_other_names(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    priors = Output(digest="sha256:" + "1" * 64, store=(old / "store").as_uri())
    model = Output(digest="sha256:" + "2" * 64, store="minio://bucket/store")
    write_record(old, priors.store, {"priors": priors})
    write_record(old, "minio://bucket/store", {"model": model})
    assert read_record(old).outputs == {"priors": priors, "model": model}
    old.rename(new)
    assert read_record(new).outputs["priors"].store == (new / "store").as_uri()
    assert read_record(tmp_path) is None


def test_what_cannot_be_found_says_what_there_is(tmp_path):
    run, digest = tmp_path / "run", "sha256:" + "1" * 64
    output = Output(digest=digest, store=(run / "store").as_uri())
    write_record(run, output.store, {"priors": output, "model": output})
    for arguments, problem in (
        ((str(run), "", "report"), "(?s)no output 'report'.*name one of: priors, model"),
        ((str(run),), "with 2 outputs"),
        ((str(run), "", "priors"), f"no manifest '{digest}'"),
        ((str(tmp_path), "", "priors"), "no run.json"),
        ((digest,), "(?s)no store.*--store"),
        ((digest, (tmp_path / "store").as_uri()), "no manifest"),
    ):
        with pytest.raises(ParameterError, match=problem):
            find_manifest(*arguments)
    (run / "run.json").write_text("{}")
    with pytest.raises(DataError, match="does not validate"):
        find_manifest(str(run), "", "priors")
