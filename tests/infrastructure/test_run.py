"""The smoke pipeline in containers against the S3 server and as processes: equal manifests, and no secret anywhere."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest

from components.core.artifacts import PriorSet, Report, TunedModel, load_manifest
from components.kubeflow.tree import ROOT
from tests.infrastructure.conftest import BUCKET, CANARY, motion_enhancer

TASKS = 19


def run(engine, out, lock, data):
    """The smoke pipeline on an engine, with a store of its own in the bucket."""
    settings = {"store": f"minio://{BUCKET}/{engine}", "source": f"{data}/scenes"}
    settings["benchmarks"] = f'["motionbench={data}/bench"]'
    given = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    arguments = ROOT / "components/cli/smoke.json"
    return motion_enhancer(
        "run", "motion_enhancer", "--engine", engine, "--lock", lock, "--out", out, "--arguments", arguments, *given
    )


def executed(said):
    """The tasks of the closing table that ended with code 0."""
    return re.findall(r"^(\w+) +[\d.]+ +0$", said, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def runs(lock, data, tmp_path_factory):
    """Folder and output of the run in containers and of the run as processes."""
    made = {}
    for engine in ("docker", "process"):
        out = tmp_path_factory.mktemp(engine)
        done = run(engine, out, lock, data)
        made[engine] = (out, done.stdout + done.stderr)
    return made


def artifact(out, task, name, kind):
    (folder,) = out.glob(f"artifacts/*/{task}/{name}")
    return load_manifest(folder, kind)


def test_every_task_ran_in_a_container_and_left_its_artifacts(runs):
    out, said = runs["docker"]
    assert len(executed(said)) == TASKS
    assert artifact(out, "report", "report", Report)
    assert (out / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("task", "name", "kind"),
    [("prior-set", "priors", PriorSet), ("sft", "model", TunedModel)],
    ids=["prior set", "model"],
)
def test_containers_and_processes_give_the_same_bytes(runs, task, name, kind):
    one, other = (artifact(runs[engine][0], task, name, kind) for engine in ("docker", "process"))
    assert (one.samples if kind is TunedModel else len(one.lines)) == 8
    assert one.to_bytes() == other.to_bytes()


def test_an_unchanged_run_executes_the_plan_alone(runs, lock, data):
    assert executed(run("docker", runs["docker"][0], lock, data).stdout) == ["plan"]


def test_a_failing_container_fails_the_run_with_its_own_code(lock, data, tmp_path):
    options = ("--engine", "docker", "--lock", lock, "--out", tmp_path, "--vdm", "tiny-cogvideox")
    places = ("--store", f"minio://{BUCKET}/failing", "--source", f"{data}/absent")
    done = motion_enhancer("run", "motion_priors", *options, *places, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "data/absent" in done.stdout


def test_no_secret_is_in_any_yaml_log_or_artifact(runs, services):
    for out, said in runs.values():
        for secret in (CANARY, services.s3_secret_key):
            assert secret not in said
            for file in out.rglob("*"):
                assert not (file.is_file() and secret.encode() in file.read_bytes()), file


def test_no_secret_is_in_any_object(runs, s3, services):
    names = [
        item.object_name
        for prefix in ("data/", *(f"{engine}/" for engine in runs))
        for item in s3.list_objects(BUCKET, prefix, True)
    ]

    def clean(name):
        content = s3.get_object(BUCKET, name).read()
        return not any(secret.encode() in content for secret in (CANARY, services.s3_secret_key))

    with ThreadPoolExecutor(8) as pool:
        assert [name for name, good in zip(names, pool.map(clean, names), strict=True) if not good] == []
    assert len(names) > 200


def test_no_secret_is_in_any_image_layer(lock, services):
    client = docker.from_env(timeout=600)
    for reference in json.loads(lock.read_text()).values():
        tail = b""
        for part in client.images.get(reference).save(chunk_size=2**24):
            block = tail + part
            assert CANARY.encode() not in block
            assert services.s3_secret_key.encode() not in block
            tail = block[-64:]
