"""Which image a task runs in: by the lock, `--image` or `--local`, never by a tag (inside: tests/infrastructure)."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from docker.errors import ImageNotFound

from components.cli.build import names
from components.core.errors import DataError, ParameterError
from components.kubeflow.images import MIRRORS, ROOT, base, locked, pinned
from components.kubeflow.tree import tree_digest
from tests.command import python

GPU, CPU = (f"registry.example/me@sha256:{digit * 64}" for digit in "ab")


def compiled(tmp_path, *options):
    """Images of a compiled pipeline by task, or the failure of the command, which is a process of its own."""
    target = tmp_path / "pipeline.yaml"
    done = python("-m", "components.cli", "compile", "-o", target, *options, code=None)
    if done.returncode:
        return done
    spec = next(yaml.load_all(target.read_text(), Loader=yaml.CSafeLoader))
    return {name: item["container"]["image"] for name, item in spec["deploymentSpec"]["executors"].items()}


@pytest.fixture
def lock(tmp_path):
    file = tmp_path / "lock.json"
    file.write_text(json.dumps({"gpu": GPU, "cpu": CPU}))
    return file


def test_the_locks_images_by_device(tmp_path, lock):
    images = compiled(tmp_path, "--lock", lock)
    assert images["exec-attention-capture"] == images["exec-sft"] == GPU
    assert images["exec-dataset-import"] == images["exec-head-selection"] == CPU
    assert set(compiled(tmp_path, "--lock", lock, "--profile", "cpu").values()) == {CPU}


def test_one_image_for_all_or_this_trees_digest(tmp_path):
    assert set(compiled(tmp_path, "--image", GPU).values()) == {GPU}
    assert set(compiled(tmp_path, "--local").values()) == {f"local@sha256:{tree_digest(ROOT)}"}


def test_without_any_it_stops_and_says_how_to_get_one(tmp_path):
    done = compiled(tmp_path, "--lock", tmp_path / "absent.json")
    assert done.returncode == 2
    assert "motion-enhancer images build" in done.stderr
    assert "--image NAME@sha256:…" in done.stderr


@pytest.mark.parametrize("image", ["example/me:latest", "example/me", "me@sha256:12", f"{GPU}:latest"])
def test_a_tag_is_refused(image):
    with pytest.raises(ParameterError, match="is not pinned"):
        pinned(image, "--image")


@pytest.mark.parametrize(
    ("images", "said"),
    [({"cpu": CPU}, "no gpu image"), ({"cpu": CPU, "gpu": "me:latest"}, "'me:latest' is not pinned")],
)
def test_a_half_lock_is_refused(lock, images, said):
    lock.write_text(json.dumps(images))
    with pytest.raises(ParameterError, match=said):
        locked(lock)


def test_names_of_what_is_built():
    assert names(["cpu"], "registry.example/me", "v1") == {"cpu": "registry.example/me:cpu-v1"}
    assert names(None, "me", "") == {variant: f"me:{variant}-{tree_digest(ROOT)[:12]}" for variant in ("gpu", "cpu")}
    with pytest.raises(ParameterError, match="no image variant tpu"):
        names(["tpu"], "me", "")


def test_the_lock_lies_outside_of_the_builds_context():
    """Else writing it would change the image that it names."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert not any(Path("docker/images.lock.json").match(pattern) for pattern in allowed)


class Engine:
    """A Docker engine that holds some images and pulls others; a registry's refusal is in the stream of a pull."""

    def __init__(self, here=(), registries=()):
        self.held, self.registries, self.pulled = dict(here), dict(registries), []
        self.images = self.api = self

    def get(self, name):
        if name not in self.held:
            raise ImageNotFound(f"No such image: {name}")
        return SimpleNamespace(attrs={"RepoDigests": self.held[name]})

    def pull(self, name, stream, decode):
        self.pulled.append(name)
        yield {"status": "Pulling"}
        if name in self.registries:
            self.held[name] = self.registries[name]
        else:
            yield {"error": "manifest unknown"}


DIGEST = f"sha256:{'c' * 64}"
CUDA = f"nvidia/cuda:12.1.1-runtime-ubuntu22.04@{DIGEST}"


def test_a_base_is_found_by_its_digest_whatever_its_tag():
    engine = Engine(registries={f"nvidia/cuda@{DIGEST}": [f"nvidia/cuda@{DIGEST}"]})
    assert base(engine, CUDA) == base(engine, CUDA) == (f"nvidia/cuda@{DIGEST}", DIGEST)
    assert engine.pulled == [f"nvidia/cuda@{DIGEST}"]


def test_a_base_that_is_gone_comes_from_the_mirror_with_the_same_digest():
    mirror = f"{MIRRORS['nvidia/cuda']}@{DIGEST}"
    engine = Engine(registries={mirror: [mirror]})
    assert base(engine, CUDA) == (mirror, DIGEST)
    assert engine.pulled == [f"nvidia/cuda@{DIGEST}", mirror]


def test_a_base_that_is_gone_everywhere_is_told_with_the_remedy():
    with pytest.raises(DataError, match="manifest unknown") as caught:
        base(Engine(), CUDA)
    assert "nvcr.io/nvidia/cuda@" in caught.value.problem
    assert "--build-arg BASE_IMAGE" in caught.value.remedy


@pytest.mark.parametrize(
    ("held", "digest", "said"),
    [([f"registry:5000/b@{DIGEST}"], DIGEST, f"it is {DIGEST} today"), ([], "", "no registry")],
)
def test_a_base_by_tag_is_resolved_and_warned_of(held, digest, said, caplog):
    engine = Engine(here={"registry:5000/b:1": held})
    assert base(engine, "registry:5000/b:1") == ("registry:5000/b:1", digest)
    assert said in caplog.text
    assert not engine.pulled
