"""What the images are made of, by the files under docker/: one torch per variant, the steps' dependencies alone."""

import json
import re

import pytest

from components.kubeflow.images import MIRRORS
from components.kubeflow.tree import ROOT

IMAGES = json.loads((ROOT / "docker/images.json").read_text())


def read(name):
    return (ROOT / name).read_text()


def test_torch_is_the_same_in_every_file():
    locked = dict(re.findall(r"(?m)^lock (\w+) [\d.]+ ([\d.]+)", read("docker/lock.sh")))
    assert locked == {variant: arguments["TORCH"].split("+")[0] for variant, arguments in IMAGES.items()}
    assert dict(re.findall(r"(?m)^ARG (BASE_IMAGE|TORCH\w*)=(\S+)", read("docker/Dockerfile"))) == IMAGES["gpu"]


def test_bases_are_named_by_digest_and_have_a_mirror():
    for arguments in IMAGES.values():
        name, digest = arguments["BASE_IMAGE"].split("@")
        assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
        assert name.split(":")[0] in MIRRORS


@pytest.mark.parametrize("variant", IMAGES)
def test_the_locks_hold_what_steps_need_and_nothing_of_the_benches(variant):
    needed = re.search(r"(?ms)^dependencies = \[\n(.*?)^\]", read("pyproject.toml"))[1]
    locked = set(re.findall(r"(?m)^([a-z][\w-]*)==", read(f"docker/requirements-{variant}.txt")))
    assert set(re.findall(r'(?m)^ +"([\w-]+)', needed)) - {"torch"} <= locked
    assert not locked & {"matplotlib", "scipy", "pytest"}
