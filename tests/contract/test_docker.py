"""What the images are made of, by the files under docker/: one torch per variant, the steps' dependencies alone."""

import json
import re

import pytest

from components.kubeflow.tree import ROOT

IMAGES = json.loads((ROOT / "docker/images.json").read_text())


def test_torch_is_the_same_in_every_file():
    locked = dict(re.findall(r"^lock (\w+) [\d.]+ ([\d.]+)", (ROOT / "docker/lock.sh").read_text(), re.MULTILINE))
    assert locked == {variant: arguments["TORCH"].split("+")[0] for variant, arguments in IMAGES.items()}
    defaults = dict(
        re.findall(r"^ARG (BASE_IMAGE|TORCH\w*)=(\S+)", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    )
    assert defaults == IMAGES["gpu"]


@pytest.mark.parametrize("variant", IMAGES)
def test_the_locks_hold_what_steps_need_and_nothing_of_the_benches(variant):
    needed = re.search(
        r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE
    )[1]
    locked = set(
        re.findall(r"^([a-z][\w-]*)==", (ROOT / f"docker/requirements-{variant}.txt").read_text(), re.MULTILINE)
    )
    assert set(re.findall(r'^ +"([\w-]+)', needed, re.MULTILINE)) - {"torch"} <= locked
    assert not locked & {"matplotlib", "scipy", "pytest"}
