"""`motion-enhancer plan ablations`: what each variant adds, told before anything runs, and what is refused."""

import json
import re
from collections import Counter

import pytest
import yaml

from components.kubeflow.scheduling import Profile
from components.models.registry import resolve
from components.models.video import family_of
from components.pages import markdown
from components.plan import ablations, seeing
from components.plan.cost import A100_FLOPS, ClipCost
from components.plan.limits import VARIABLE
from components.plan.step import STEP
from components.runtime.declaration import declared
from components.runtime.parameters import validated
from components.runtime.presets import PRESETS
from components.store.entries import Store
from components.synthetic.scenes import write_set
from tests.ablations import TINY
from tests.chain import Chain
from tests.command import motion_enhancer
from tests.pages.reading import tables

COUNT = 2
VARIANTS = [
    {"name": "two steps"},
    {"name": "one step", "num_steps": 1},
    {"name": "no MHS", "params_head_selection.mhs": False},
    {"name": "plain", "align_weight": 0},
    {"name": "the same", "num_steps": 2},
    {"name": "longer replies", "params_benchmark_eval.max_new_tokens": 8},
]
NAMES = [row["name"] for row in VARIANTS]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A source and a benchmark, and a store in which the first variant's extraction is done."""
    tmp = tmp_path_factory.mktemp("plan")
    write_set(tmp / "scenes", preset="scenes", count=COUNT, seed=8)
    write_set(tmp / "bench", preset="bench", count=1, seed=9)
    Chain(tmp, tmp / "store", tmp / "scenes").priors()
    return tmp


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """Leave the checkout, and print hours with all their digits."""
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablations, "readable_hours", lambda hours: f"{hours:.9g}")
    monkeypatch.setattr(markdown, "WIDTH", 300)


def words(world, store, variants=VARIANTS, **more):
    values = {f"params_{step}.{name}": value for step, fields in TINY.items() for name, value in fields.items()}
    values |= {"source": str(world / "scenes"), "benchmarks": [f"motionbench={world / 'bench'}"], "num_steps": 2}
    values |= {"vdm": "tiny-cogvideox", "vlm": "tiny-qwen2.5-vl", "seeds": [1, 2], "store": store.as_uri()}
    values |= {"variants": variants, **more}
    return [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def planned(world, store, capsys, **more):
    """Hours by (variant, new or shared) and column, of the printed table."""
    assert motion_enhancer("plan", "ablations", *words(world, store, **more)) == 0
    (head, *rows) = next(found for found in tables(capsys.readouterr().out) if found[0][0] == "variant")
    named, found = "", {}
    for name, said, *cells in rows:
        named = name or named
        numbers = [0.0 if cell in ("–", "") else cell for cell in cells]
        found[named, said] = dict(zip(head[2:], numbers, strict=False))
    return {key: {name: float(value) for name, value in row.items() if name != "maps"} for key, row in found.items()}


def test_what_a_variant_adds(world, tmp_path, capsys):
    found = planned(world, tmp_path / "store", capsys)
    model = resolve("tiny-cogvideox", Store((tmp_path / "store").as_uri())).path
    clip = ClipCost(family_of(model).sizes(model), 17, 64, 64)
    inversion, capture = clip.inversion(2, 0), clip.capture(2, 8, memory=True)
    first = found["two steps", "new"]
    assert first["inversion"] == pytest.approx(COUNT * inversion / A100_FLOPS / 3600)
    assert first["capture"] == pytest.approx(COUNT * capture / A100_FLOPS / 3600)
    assert found["one step", "new"]["inversion"] == pytest.approx(first["inversion"] / 2)
    assert found["two steps", "shared"] == dict.fromkeys(first, 0)
    for name in ("no MHS", "plain", "the same", "longer replies"):
        for column in ("inversion", "capture"):
            assert found[name, "new"][column] == 0
            assert found[name, "shared"][column] == pytest.approx(first[column])
    assert [name for name in NAMES if found[name, "new"]["training"]] == ["two steps", "one step", "no MHS", "plain"]
    assert found["the same", "shared"]["all"] == pytest.approx(first["all"])
    assert found["the same", "new"]["all"] == 0
    # untouched and both trainings; where the untouched model's is known those of the trainings; of longer replies all
    assert found["plain", "new"]["evaluation"] == pytest.approx(first["evaluation"] * 2 / 3)
    assert found["longer replies", "new"]["evaluation"] > first["evaluation"]
    for column in first:
        assert found["all", "new"][column] == pytest.approx(sum(found[name, "new"][column] for name in NAMES))


def test_what_the_store_has_is_shared(world, capsys):
    found = planned(world, world / "store", capsys)
    assert found["two steps", "new"]["inversion"] == found["two steps", "new"]["capture"] == 0
    assert found["two steps", "shared"]["inversion"] > 0
    assert found["one step", "new"]["inversion"] == pytest.approx(found["two steps", "shared"]["inversion"] / 2)
    assert found["two steps", "new"]["training"] > 0  # an upper bound


@pytest.mark.parametrize(
    ("variants", "more", "said"),
    [
        ([{"name": "x", "nm_steps": 1}], {}, "variant 'x': this pipeline has no parameter 'nm_steps'"),
        ([{"name": "x", "params_sft.lerning_rate": 1}], {}, "lerning_rate.*where:  variant 'x', params_sft"),
        ([{"name": "x", "num_steps": 0}], {}, "num_steps.*where:  variant 'x'"),
        ([{"name": "x", "params_report": {"pictures": 1}}], {}, "'x': this pipeline has no parameter 'params_report'"),
        ([{"name": "x"}, {"name": "x"}], {}, "two variants are called 'x'"),
        ([{"name": "x"}], {"baseline": "y"}, "there is no variant 'y'"),
        ([], {}, "variants"),
    ],
)
def test_a_variant_that_cannot_run_is_refused_by_name(world, tmp_path, capsys, variants, more, said):
    assert motion_enhancer("plan", "ablations", *words(world, tmp_path / "store", variants, **more)) == 2
    assert re.search(f"(?s){said}", capsys.readouterr().err)


def test_a_part_of_the_source_is_shared_with_all_of_it(world, tmp_path, capsys):
    write_set(tmp_path / "more", preset="scenes", count=COUNT + 1, seed=8)
    variants = [{"name": "all", "align_weight": 0}, {"name": "some", "source": {"samples": COUNT}}]
    found = planned(world, tmp_path / "store", capsys, variants=variants, source=str(tmp_path / "more"))
    assert found["some", "new"]["inversion"] == 0  # a part of the others'
    assert found["some", "shared"]["inversion"] == pytest.approx(found["all", "new"]["inversion"] * 2 / 3)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_variants_of_the_pipeline(name):
    form = STEP.form("ablations")
    shared = validated(form.shared, form.shared.pipeline_defaults(), "defaults")
    found = ablations.arms(shared, {step: declared(step).defaults() for step in form.planned}, [name])
    settings = [
        (
            arm.shared.num_steps,
            arm.shared.head_ratio,
            arm.shared.token_ratio,
            arm.params["head_selection"].mhs,
            arm.params["token_selection"].mtti,
        )
        for arm in found
    ]
    sources = Counter(arm.shared.source for arm in found)
    if name == "paper_table3":  # main paper, Table 3: MHS and MTTI off and on
        assert [row[3:] for row in settings] == [(False, False), (True, False), (False, True), (True, True)]
    if name == "paper_table5":  # supplement, Table 5: plain, N of 2, 5, 10, ratios of .25, .5, .75
        rows = [(2, 0.5), (5, 0.5), (10, 0.5), (5, 0.25), (5, 0.5), (5, 0.75)]
        assert settings[0][3:] == (False, False)
        assert settings[1:] == [(steps, ratio, ratio, True, True) for steps, ratio in rows]
    if name == "paper_table6":  # supplement, Table 6: 25k of the samples aligned, all of them plain
        assert sources == {"./data": 1, '{"uri": "./data", "samples": 25000}': 1}
        assert [arm.shared.align_weight for arm in found] == [0, 1]
    if name == "controls":
        assert [arm.params["sft"].prior_control for arm in found[2:]] == ["shuffled", "uniform", "frame_difference"]


def test_trainings_are_dealt_out_in_turn():
    assert ablations.dealt([1, 2, 4, 8, 16], ["0/2", "1/2"]) == [21, 10]
    assert ablations.dealt([1.0], ["0/2", "1/2"]) == [1.0, 0]


def test_what_would_outlast_its_pod_takes_more_parts(world, tmp_path, capsys, monkeypatch):
    limits = Profile("a100", timeout=1).limits(8).model_dump_json(exclude_none=True)
    container = {"env": [{"name": VARIABLE, "value": limits}]}
    file = tmp_path / "compiled.yaml"
    file.write_text(
        yaml.safe_dump_all([{"deploymentSpec": {"executors": {"exec-plan": {"container": container}}}}, {}])
    )
    monkeypatch.setattr(seeing, "_HOUR", 1e4 * 3600)
    given = words(world, tmp_path / "store", VARIANTS[:3])
    assert motion_enhancer("plan", "ablations", "--compiled", file, *given) == 0
    printed = capsys.readouterr().out.replace("\\", "")
    assert "**Warning:** sft: at most" in printed
    assert "a part for each training (--trial-shards 6)" in printed
    (table,) = (found for found in tables(printed) if found[0][0] == "task")
    trained = {row[0]: row[1] for row in table[1:]}
    assert trained["sft"] == "1 × 8 GPUs"
    assert trained["tuned_eval"] == "1 × 4 GPUs"
    assert "attention_capture" in trained
