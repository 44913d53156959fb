"""A step whose numbers changed while its `version` did not: stores would go on serving what the old code made."""

import json

import pytest

from tests.contract.golden import BEFORE, COMMAND, FILE, measure

RTOL, ATOL = 2e-3, 2e-5  # what machines and torch builds may differ by


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return measure(tmp_path_factory.mktemp("golden"))


def golden():
    return json.loads(FILE.read_text(encoding="utf-8"))


def differences(golden, found, where=""):
    """Where two trees of numbers and words differ, with both values."""
    if isinstance(golden, list) and isinstance(found, list):
        golden, found = dict(enumerate(golden)), dict(enumerate(found))
    if isinstance(golden, dict) and isinstance(found, dict) and golden.keys() == found.keys():
        return [line for key in golden for line in differences(golden[key], found[key], f"{where}.{key}")]
    if isinstance(golden, (int, float)) and isinstance(found, (int, float)):
        return [] if found == pytest.approx(golden, rel=RTOL, abs=ATOL) else [f"{where[1:]}: {golden:g} → {found:g}"]
    return [] if golden == found else [f"{where[1:]}: {golden} → {found}"]


def complaint(name, golden, found):
    """What is wrong with a step; nothing where the change came from a step before it."""
    if golden.keys() != found.keys():
        return f"golden.json has {sorted(golden)}: regenerate with `{COMMAND}`"
    if golden[name]["version"] != found[name]["version"]:
        return f"{name}: version {golden[name]['version']} → {found[name]['version']}: regenerate with `{COMMAND}`"
    changed = differences(golden[name]["numbers"], found[name]["numbers"])
    earlier = BEFORE[name]
    while changed and earlier is not None:
        changed = [] if _changed(golden[earlier], found[earlier]) else changed
        earlier = BEFORE[earlier]
    if not changed:
        return ""
    listed = "\n  ".join(changed[:12])
    return (
        f"{name}: its numbers changed but its version did not: bump STEP.version in components/{name}/step.py and "
        f"regenerate with `{COMMAND}` (regenerate alone if the synthetic set or the tiny models changed)\n  {listed}"
    )


def _changed(golden, found):
    return golden["version"] != found["version"] or bool(differences(golden["numbers"], found["numbers"]))


@pytest.mark.parametrize("name", BEFORE)
def test_numbers_change_with_the_version_only(name, found):
    problem = complaint(name, golden(), found)
    assert not problem, problem


def test_a_forgotten_bump_names_the_first_step_that_changed():
    other = golden()
    for name in ("token_selection", "sft"):  # the second follows from the first
        key = next(iter(other[name]["numbers"]))
        other[name]["numbers"][key][0] *= 1.01
    assert "STEP.version in components/token_selection/step.py" in complaint("token_selection", golden(), other)
    assert [name for name in BEFORE if complaint(name, golden(), other)] == ["token_selection"]


def test_a_bumped_version_asks_for_new_numbers():
    other = golden()
    other["ddim_inversion"]["version"] = "1.1"
    assert COMMAND in complaint("ddim_inversion", golden(), other)
