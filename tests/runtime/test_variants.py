"""Variants of one run: what they share is computed once, whatever ends in between, and nothing is silently left out."""

import hashlib
import html
import json
from collections import Counter
from itertools import product

import pytest

from components.core.artifacts import EvalResult, LeakageReport
from components.core.errors import DataError, ParameterError
from components.kubeflow.arguments import pipeline, pipeline_defaults
from components.kubeflow.run_report import report_of
from components.runtime import runner
from components.runtime.declaration import Form, Step
from components.runtime.parameters import NumSteps, Seed, SharedParams, StepParams, as_text
from components.runtime.presets import PRESETS
from components.runtime.variants import baseline_of, changed, merged, parse_variants, read_index, slug
from components.store.entries import Store, WorkFolder
from components.synthetic.scenes import write_set
from tests.ablations import TINY, Ablations
from tests.command import motion_enhancer

COUNT, ITEMS = 2, 1
SEEDS = [1, 2]
VARIANTS = [
    {"name": "aligned"},
    {"name": "as many heads", "head_ratio": 0.49},  # other manifests, the same keys
    {"name": "1 step", "num_steps": 1},
    {"name": "no MHS", "params_head_selection": {"mhs": False}},
    {"name": "quarter", "head_ratio": 0.25, "token_ratio": 0.25},
    {"name": "plain SFT", "align_weight": 0},
    {"name": "uniform", "params_sft.prior_control": "uniform"},
    {"name": "other question", "params_benchmark_eval": {"system_prompt": "Answer in one letter."}},
    {"name": "as aligned", "num_steps": 2.0},
]
# of the variants above, those that are different work up to a step
TRAININGS = ("aligned", "1 step", "no MHS", "quarter", "plain SFT", "uniform")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A source and a benchmark."""
    tmp = tmp_path_factory.mktemp("ablations")
    write_set(tmp / "scenes", preset="scenes", count=COUNT, seed=5)
    write_set(tmp / "bench", preset="bench", count=ITEMS, seed=6)
    return tmp


class Killed(BaseException):
    """The process ends in the middle of a piece of work."""


# Pieces of work of a step that are finished when the next one is cut off: within the second variant, the third training
CUTS = {"attention_capture": COUNT + 1, "sft": 2}


@pytest.fixture(scope="module")
def ran(world):
    """All variants with both seeds, cut off twice and begun anew, and how often each step's work was computed."""
    finish, computed, cuts = WorkFolder.finish, Counter(), dict(CUTS)

    def finished(folder, *args):
        if computed[folder.step] == cuts.get(folder.step):
            del cuts[folder.step]
            raise Killed
        computed[folder.step] += 1
        return finish(folder, *args)

    run = Ablations(world, world / "store", world / "scenes", world / "bench", VARIANTS, SEEDS, trials=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkFolder, "finish", finished)
        for _ in CUTS:
            with pytest.raises(Killed):
                run.run()
            run.outputs.clear()
        run.run()
    return run, computed


def entries(store):
    """How many pieces of work each step has done."""
    return Counter(path.relative_to(store).parts[0] for path in store.glob("*/*/entry.json"))


def ran_cases(run, task, name):
    """The cases that a task ran its step for, over the iterations of its loop."""
    found = [case for outputs in run.outputs[task] for case, _ in read_index(outputs[name])]
    return [case for case in found if not case.same_as]


def test_each_piece_of_work_is_done_once(ran):
    """Also when the run was cut off: nothing is computed again but the piece that was under way."""
    ran, computed = ran
    found = entries(ran.store)
    assert computed == found
    assert found["ddim_inversion"] == found["attention_capture"] == COUNT * 2  # numbers of steps
    assert len(ran_cases(ran, "ddim_inversion", "trajectories")) == 2
    assert len(ran_cases(ran, "head_selection", "heads")) == 5  # ratios, numbers of steps, and without MHS
    assert found["sft"] == len(TRAININGS) * len(SEEDS)
    evaluated = [*TRAININGS, "other question", "as many heads"]
    assert len(ran_cases(ran, "tuned_eval", "result")) == len(evaluated) * len(SEEDS)
    assert len(ran_cases(ran, "baseline_eval", "result")) == 2  # with either system prompt


def test_trainings_of_one_key_belong_to_one_part(ran):
    """So that two tasks that start together do not both compute it, also where manifests differ."""
    ran, _ = ran
    parts = [{(case.variant, case.seed) for case, _ in read_index(one["model"])} for one in ran.outputs["sft"]]
    for seed in SEEDS:
        assert any({("aligned", seed), ("as many heads", seed), ("as aligned", seed)} <= part for part in parts)
    assert sorted(map(len, parts)) == [
        4,
        7,
        7,
    ]  # twelve keys over three parts; four variants have one training each seed


def test_every_case_has_its_own_result(ran):
    ran, _ = ran
    store, found = Store((ran.store).as_uri()), {}
    for outputs in ran.outputs["tuned_eval"]:
        for case, folder in read_index(outputs["result"]):
            found[case.variant, case.seed] = store.opened(folder, EvalResult)
            assert case.benchmark == ran.shared["benchmarks"][0]
    assert set(found) == set(product([row["name"] for row in VARIANTS], SEEDS))
    digests = {key: result.digest for key, result in found.items()}
    for seed in SEEDS:
        assert digests["as aligned", seed] == digests["aligned", seed]
        assert digests["other question", seed] != digests["aligned", seed]
    made = {key: result.provenance["sft"] for key, result in found.items()}
    assert made["plain SFT", 2].scalars["align_weight"] == 0
    assert made["uniform", 1].params["prior_control"] == "uniform"
    assert {made["quarter", seed].scalars["seed"] for seed in SEEDS} == set(SEEDS)
    assert made["1 step", 1] == made["aligned", 1]  # the training's own parameters
    assert found["1 step", 1].provenance["ddim_inversion"].scalars["num_steps"] == 1


def test_the_command_line_runs_the_same_tasks(ran, tmp_path):
    """The third part of the trainings and their evaluations: equal artifacts, and nothing is computed again."""
    ran, _ = ran
    before, made = entries(ran.store), {name: found[-1] for name, found in ran.outputs.items()}
    lists = {"variants": VARIANTS, "seeds": SEEDS, "trial_shard": "2/3", "vlm": ran.shared["vlm"], "align_weight": 1}
    inputs = {"joined": made["training_set"]["maps"], "leakage": made["leakage_check"]["leakage"]}
    model = command(ran, tmp_path / "sft", "sft", "sft", inputs, lists) / "model"
    assert files(model) == files(made["sft"]["model"])
    inputs = {"videos": made["benchmark_import"]["videos"], "model": model}
    lists = {"variants": VARIANTS, "benchmarks": ran.shared["benchmarks"]}
    out = command(ran, tmp_path / "eval", "tuned_eval", "benchmark_eval", inputs, lists)
    assert files(out / "result") == files(made["tuned_eval"]["result"])
    assert len(files(model)) > len(SEEDS)
    assert entries(ran.store) == before


def command(ran, out, task, step, inputs, values):
    """Run a task by `motion-enhancer step`; the folder of its outputs."""
    given = [word for name, value in values.items() for word in ("--set", f"{name}={as_text(value)}")]
    given += [word for name, folder in inputs.items() for word in ("--in", f"{name}={folder}")]
    given += ["--params", json.dumps(TINY[step]), "--task", task]
    assert motion_enhancer("step", step, "--store", ran.store.as_uri(), "--out", out, *given) == 0
    return out


def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_comparison_is_found_by_the_runs_parameters(ran):
    ran, _ = ran
    known = pipeline_defaults(pipeline("ablations"))
    values = known | ran.shared
    values |= {f"params_{step}": merged(known[f"params_{step}"], params) for step, params in TINY.items()}
    store = Store(ran.store.as_uri())
    manifest = ran.outputs["comparison"][0]["report"] / "manifest.json"
    assert report_of(store, values).digest == hashlib.sha256(manifest.read_bytes()).hexdigest()
    for other in ({"variants": VARIANTS[:-1]}, {"seeds": SEEDS[:1]}, {"num_steps": 3}, {"align_weight": 2.0}):
        with pytest.raises(DataError, match="no comparison with this run's parameters"):
            report_of(store, values | other)


# The list of variants -------------------------------------------------------------------------------------------------


def test_names_become_folders_and_dotted_fields_become_objects():
    given = [
        {"name": "25 % of heads", "head_ratio": 0.25},
        {"name": "λ = 3", "params_sft.lr_llm": 1, "params_sft": {"viewing": {"fps": 2}}},
    ]
    first, second = parse_variants(given)
    assert (slug(first.name), first.changes) == ("25-of-heads", {"head_ratio": 0.25})
    assert slug(second.name) == "3-" + hashlib.sha256("λ = 3".encode()).hexdigest()[:8]
    assert second.changes == {"params_sft": {"lr_llm": 1, "viewing": {"fps": 2}}}
    assert [one.name for one in parse_variants(["controls", given[0]])][-2:] == ["frame difference", "25 % of heads"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{"num_steps": 1}], "no name"),
        ([{"name": ""}], "'' is no name"),
        ([{"name": "a/b", "x": 1}, {"name": "a b"}], "too much alike: both would lie in a-b"),
        ([{"name": "a"}, {"name": "a"}], "two variants are called 'a'"),
        ([{"name": "first"}], "names a baseline"),
        ([["a"]], r"\['a'\] is no object"),
        (["paper_table4"], "no preset 'paper_table4'.*paper_table3, paper_table5"),
        ([{"name": "a", "seed": 2}], "'a' cannot change 'seed': .*`seeds`"),
        ([{"name": "a", "benchmarks": []}], "'a' cannot change 'benchmarks'"),
    ],
)
def test_what_is_no_list_of_variants(given, said):
    with pytest.raises(ParameterError, match=f"(?s){said}"):
        parse_variants(given)


def test_every_preset_is_one_list_and_all_are_another():
    for name, rows in PRESETS.items():
        assert [one.name for one in parse_variants([name])] == [row["name"] for row in rows]
    assert baseline_of("first", ["a", "b"]) == "a"
    assert baseline_of("untouched", ["a"]) == "untouched"
    with pytest.raises(ParameterError, match=r"no variant 'c'(?s:.*)first, untouched, or one of 'a', 'b'"):
        baseline_of("c", ["a", "b"])


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("data", {"uri": "data", "samples": 3}),
        ('{"uri": "data", "weight": 2}', {"uri": "data", "weight": 2, "samples": 3}),
    ],
)
def test_a_variant_takes_fewer_samples_of_the_one_source(source, wanted):
    found = changed({"source": source, "seed": 1}, {"source": {"samples": 3}, "vdm": "x"})
    assert (json.loads(found.pop("source")), found) == (wanted, {"seed": 1})
    assert changed({"source": source}, {"source": "other"}) == {"source": "other"}
    with pytest.raises(ParameterError, match="any of 2 sources"):
        changed({"source": '["a", "b"]'}, {"source": {"samples": 3}})


# One task -------------------------------------------------------------------------------------------------------------


class Shared(SharedParams):
    num_steps: NumSteps
    seed: Seed


def work(context):
    """Write what it was given; a number of steps of 9 fails."""
    if context.shared.num_steps == 9:
        raise DataError("nine", source="steps", remedy="none")
    record = {"steps": context.shared.num_steps, "seed": context.shared.seed}
    before = context.input("before", LeakageReport).training if context.has("before") else 0
    made = context.manifest(LeakageReport, training=before + record["steps"], benchmarks={}, pairs=[], excluded=[])
    context.publish("made", made)
    context.page("text", f"# Steps\n\n{record}")
    context.page("shown", f"<p>{record['steps']} &amp; {record['seed']}")
    context.metrics(other=1)


STEP = Step(
    "demo", "1", "Demo", "thing", "cpu", work, StepParams, Shared,
    inputs={"before": LeakageReport}, outputs={"made": LeakageReport},
    pages={"text": "Markdown", "shown": "HTML", "metrics": "Metrics"},
    forms={"": Form(Shared), "after": Form(Shared, ("before",))},
)  # fmt: skip
FOUR = [
    {"name": "one"},
    {"name": "two", "num_steps": 2},
    {"name": "also one", "num_steps": 1.0},
    {"name": "three", "num_steps": 3},
]


def demo(folder, variants, inputs=None, **values):
    """Run the varied task; return its outputs, and its cases by folder with the manifests' numbers."""
    given = {"store": (folder / "store").as_uri(), "store_patience": 1, "num_steps": 1, "variants": variants, **values}
    given |= {} if "seeds" in values else {"seed": 7}
    out = folder / f"out-{len(list(folder.iterdir()))}"
    outputs = runner.run_step(STEP, out, given, inputs or {})
    store = Store(given["store"])
    return outputs, {
        case.folder: (case, store.opened(at, LeakageReport).training) for case, at in read_index(outputs["made"])
    }


def test_equal_cases_are_copied_and_pages_are_joined(tmp_path):
    outputs, found = demo(tmp_path, FOUR)
    assert {name: made for name, (_, made) in found.items()} == {"one": 1, "two": 2, "also-one": 1, "three": 3}
    assert [case.same_as for case, _ in found.values()] == ["", "", "one", ""]
    assert outputs["text"].read_text().count("## `") == 3
    assert "## `'two'`" in outputs["text"].read_text()
    assert html.escape("<p>2 &amp; 7") in outputs["shown"].read_text()
    assert json.loads(outputs["metrics"].read_bytes())["cases"] == 3
    answer = json.loads((outputs["made"].parent / "executor_output.json").read_bytes())
    assert set(answer["artifacts"]) == {"made", "text", "shown", "metrics"}


def test_a_case_takes_its_own_manifest_of_an_input(tmp_path):
    before, _ = demo(tmp_path, FOUR)
    _, found = demo(tmp_path, FOUR, {"before": [before["made"]]})
    assert {name: made for name, (_, made) in found.items()} == {"one": 2, "two": 4, "also-one": 2, "three": 6}
    with pytest.raises(DataError, match="no manifests of 'new'"):
        demo(tmp_path, [*FOUR, {"name": "new"}], {"before": [before["made"]]})


def test_trainings_are_dealt_out_and_equal_ones_stay_together(tmp_path):
    parts = [demo(tmp_path, FOUR, seeds=[1, 2], trial_shard=f"{k}/4") for k in range(4)]
    held = [{name for name, (case, _) in found.items() if not case.same_as} for _, found in parts]
    assert sorted(map(len, held)) == [1, 1, 2, 2]  # six different ones
    assert set().union(*held) == {f"{name}/seed-{seed}" for name in ("one", "two", "three") for seed in (1, 2)}
    assert {name for _, found in parts for name in found} == {
        f"{name}/seed-{seed}" for name in ("one", "two", "also-one", "three") for seed in (1, 2)
    }
    outputs, _ = parts[0]
    _, found = demo(tmp_path, FOUR, {"before": [outputs["made"]]})  # those that it holds, and no other
    assert set(found) == set(parts[0][1])
    assert json.loads((outputs["made"] / "variants.json").read_bytes())["part"] == "0/4"


def test_a_part_that_no_training_falls_to_is_empty(tmp_path):
    outputs, found = demo(tmp_path, FOUR, seeds=[1], trial_shard="3/4")
    assert found == {}
    assert demo(tmp_path, FOUR, {"before": [outputs["made"]]})[1] == {}


def test_an_error_names_its_variant(tmp_path):
    with pytest.raises(DataError, match=r"where:  steps, variant 'bad'"):
        demo(tmp_path, [{"name": "good"}, {"name": "bad", "num_steps": 9}])
    with pytest.raises(ParameterError, match=r"num_steps.*\n  where:  variant 'bad', parameters of demo"):
        demo(tmp_path, [{"name": "bad", "num_steps": 0}])


def test_a_damaged_index_is_refused(tmp_path):
    before, _ = demo(tmp_path, FOUR)
    (before["made"] / "variants.json").write_text('{"cases": 1}')
    with pytest.raises(DataError, match=r"variants.json does not validate"):
        demo(tmp_path, FOUR, {"before": [before["made"]]})
    with pytest.raises(DataError, match="it is of no variants"):
        read_index(tmp_path)
