"""Prior sets merged: the same set as one run over all sources makes, and an error where sets do not fit together."""

import json

import pytest

from components.core.artifacts import PriorLine, PriorSet
from components.core.errors import ParameterError
from components.core.lines import Lines
from components.core.records import Failure, HeadRow
from components.prior_set.merge import check_agreement, joined_lines, joined_provenance
from components.prior_set.step import STEP
from components.store.entries import Store
from components.store.transfer import export_folder
from components.synthetic.scenes import write_set
from tests.chain import Chain
from tests.command import motion_enhancer
from tests.runner import load_manifest, run_step


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two sources, the prior set of each, and the one of a recipe of both."""
    tmp = tmp_path_factory.mktemp("merge")
    write_set(tmp / "a", preset="scenes", count=2, seed=1)
    write_set(tmp / "b", preset="scenes", count=2, seed=2)
    one, two = ({"uri": str(tmp / name), "name": name} for name in "ab")
    two["weight"] = 2.0

    def priors(source):
        return load_manifest(Chain(tmp, tmp / "store", json.dumps(source)).priors(), PriorSet)

    return tmp, priors([one]), priors([two]), priors([one, two])


def opened(world, *sets, store=None):
    digests = [f"sha256:{one.digest}" for one in sets]
    shared = {"prior_digest": json.dumps(digests) if len(digests) > 1 else digests[0]}
    made = run_step(STEP, world[0], store or world[0] / "store", shared=shared, form="opened")
    return load_manifest(made["priors"], PriorSet), made["card"].read_text()


def changed(found, task, **fields):
    record = found.provenance[task].model_copy(update=fields)
    return found.model_copy(update={"provenance": {**found.provenance, task: record}})


def test_merged_sets_are_the_set_of_one_run_over_both(world):
    _, a, b, both = world
    found, card = opened(world, a, b)
    assert found.lines == both.lines
    assert found.saturation == both.saturation
    assert found.heads == both.heads
    assert (found.provenance, found.left_out) == (both.provenance, both.left_out)
    assert found.merged == [f"sha256:{a.digest}", f"sha256:{b.digest}"]
    assert f"merged from sha256:{a.digest}" in card
    assert {(line.sample.source, line.sample.weight) for line in found.lines} == {("a", 1.0), ("b", 2.0)}
    assert Store(str(world[0] / "store")).manifest(found.digest, PriorSet) == found


def test_a_sample_of_two_sets_is_taken_once_and_a_set_alone_is_itself(world):
    _, a, _, both = world
    found, _ = opened(world, a, both)
    assert found.lines == both.lines
    assert found.heads == both.heads
    alone, card = opened(world, a)
    assert alone == a
    assert "merged" not in card
    assert opened(world, a, a)[0] == a
    assert "merged" not in json.loads(a.to_bytes())


@pytest.mark.parametrize(
    ("task", "fields", "said"),
    [
        ("ddim_inversion", {"version": "99"}, "ddim_inversion version is "),
        ("ddim_inversion", {"models": {}}, "ddim_inversion vdm is "),
        ("attention_capture", {"params": {"rows": 7}}, "attention_capture rows is 8 and 7"),
        ("head_selection", {"scalars": {"head_ratio": 0.25}}, "head_selection head_ratio is 0.5 and 0.25"),
        ("token_selection", {"scalars": {"token_ratio": 0.25}}, "token_selection token_ratio is 0.5 and 0.25"),
    ],
)
def test_sets_that_were_made_in_different_ways_are_refused(world, task, fields, said):
    _, a, b, _ = world
    with pytest.raises(ParameterError, match=said) as caught:
        check_agreement([a, changed(b, task, **fields)])
    assert a.digest[:12] in caught.value.problem
    check_agreement([a, b])


def test_a_task_that_one_set_alone_has_is_a_difference(world):
    _, a, b, _ = world
    for task, said in (
        ("token_selection", r"token_selection token_ratio is 0\.5 and not recorded"),
        ("head_selection", "does not say how its heads were chosen"),
    ):
        less = {name: record for name, record in b.provenance.items() if name != task}
        with pytest.raises(ParameterError, match=said):
            check_agreement([a, b.model_copy(update={"provenance": less})])


def test_under_one_set_of_heads_for_the_data_set_the_heads_must_be_the_same(world):
    _, a, b, _ = world
    scoped = [
        changed(one, "head_selection", params=one.provenance["head_selection"].params | {"scope": "dataset"})
        for one in (a, b)
    ]

    def with_heads(found, heads):
        lines = [line.model_copy(update={"heads": heads}) for line in found.lines]
        return found.model_copy(update={"lines": Lines(PriorLine, lines)})

    check_agreement([with_heads(scoped[0], [0, 1]), with_heads(scoped[1], [0, 1])])
    with pytest.raises(ParameterError, match="scope=dataset"):
        check_agreement([with_heads(scoped[0], [0, 1]), with_heads(scoped[1], [0, 2])])


def test_imports_may_differ_and_the_provenance_keeps_both(world):
    _, a, b, _ = world
    other = changed(b, "dataset_import", params=b.provenance["dataset_import"].params | {"layout": "llava"})
    check_agreement([a, other])
    found = joined_provenance([a, other])
    names = [f"dataset_import of sha256:{one.digest[:12]}" for one in (a, other)]
    assert {name for name in found if "dataset_import" in name} == {*names}
    assert [found[name].params["layout"] for name in names] == ["auto", "llava"]
    assert {*found} - {*names} == {*a.provenance} - {"dataset_import"}


def test_what_was_left_out_is_listed_once(world):
    _, a, b, _ = world
    item = Failure(unit="x", task="t", reason="r")
    lost = [one.model_copy(update={"left_out": Lines(Failure, [item])}) for one in (a, b)]
    for one in lost:
        Store(str(world[0] / "store")).publish(one)
    found, card = opened(world, *lost)
    assert list(found.left_out) == [item]
    assert card.partition("## Left out")[2].count("`x` (`t`): r") == 1
    assert list(joined_lines([a, a])) == list(a.lines)


def test_plan_takes_digests_and_folders_and_hands_all_on(world, tmp_path, capsys, monkeypatch):
    from components.plan.step import STEP as PLAN

    _, a, b, _ = world
    store = Store(str(world[0] / "store"))
    export_folder(store, b, tmp_path / "b", "card")
    write_set(tmp_path / "bench", preset="bench", count=2, seed=9)
    shared = {"priors": [f"sha256:{a.digest}", str(tmp_path / "b")], "vlm": "tiny-qwen2.5-vl"}
    shared |= {"benchmarks": [f"motionbench={tmp_path / 'bench'}"], "shards": ["0/1"]}
    params = {name: {} for name in PLAN.form("fine_tune").planned} | {"dataset_import": {"allow_subset": True}}
    made = run_step(PLAN, tmp_path, world[0] / "store", shared=shared, form="fine_tune", step_params=params)
    assert json.loads(made["prior_digest"].read_text()) == [f"sha256:{one.digest}" for one in (a, b)]
    said = made["plan"].read_text()
    assert "Merged: 4 samples of 4 videos; a sample of several sets is taken once." in said
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    other = store.publish(changed(b, "ddim_inversion", version="99"))
    for priors, code in (
        (["x", {"a": 1}], 2),
        ([f"sha256:{a.digest}", f"sha256:{other}"], 2),
        ([str(tmp_path / "none")], 3),
        ([], 2),
    ):
        given = ("priors=" + json.dumps(priors), f"store={store.uri}", "vlm=tiny-qwen2.5-vl")
        assert motion_enhancer("plan", "fine_tune", *(word for item in given for word in ("--set", item))) == code
    said = capsys.readouterr().err
    assert "an empty list" in said
    assert "were made in different ways: ddim_inversion version is" in said


def test_the_table_of_heads_counts_every_sample(world):
    found, _ = opened(world, world[1], world[2])
    assert all(isinstance(row, HeadRow) and row.samples == 4 for row in found.heads)
    assert sum(row.chosen for row in found.heads) == sum(len(line.heads) for line in found.lines)
