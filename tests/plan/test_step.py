"""`motion-enhancer plan` before and after a real extraction: what is remembered, what is to compute, what is left."""

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
import yaml

from components.cli.options import PipelineOptions
from components.core.artifacts import PriorSet
from components.core.errors import ParameterError
from components.core.units import readable_bytes
from components.kubeflow.arguments import with_absolute_paths
from components.kubeflow.compile import compiled_limits
from components.kubeflow.scheduling import Profile
from components.plan import cost, seeing, tuning
from components.plan.step import STEP
from components.steps import EXTRACTION
from components.store.entries import Store
from components.store.file import FileBackend
from components.store.transfer import export_folder, import_folder
from components.synthetic.scenes import write_set
from tests.chain import SMALL, Chain
from tests.command import motion_enhancer
from tests.dataset_import.data import clip, lines, own
from tests.pages.reading import rows, tables
from tests.runner import load_manifest, run_step
from tests.s3_server import s3_server

STEPS = ("dataset_import", "ddim_inversion", "attention_capture", "token_selection")
COUNT = 3
SOME = "params_dataset_import.allow_subset=true"  # the synthetic set is not MotionBench


@pytest.fixture(autouse=True)
def _clean_tree(monkeypatch, tmp_path):
    """Leave the checkout: the store then has no prefix for uncommitted work, and nothing may be written here."""
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A source, and a store in which its extraction is done."""
    tmp = tmp_path_factory.mktemp("plan")
    write_set(tmp / "scenes", preset="scenes", count=COUNT, seed=8)
    chain = Chain(tmp, tmp / "store", tmp / "scenes")
    priors = chain.priors()
    return tmp, tmp / "scenes", tmp / "store", priors


def assigned(*items, **values):
    """Return `--set NAME=VALUE` for each."""
    return [word for item in (*(f"{key}={value}" for key, value in values.items()), *items) for word in ("--set", item)]


def settings(source, store, *more, **shared):
    small = [f"params_{step}.{name}={value}" for step, fields in SMALL.items() for name, value in fields.items()]
    own = shared if store is None else {"store": store.as_uri(), **shared}
    return assigned(SOME, *small, *more, source=source, vdm="tiny-cogvideox", num_steps=2, **own)


def planned(capsys, *arguments, pipeline="motion_priors"):
    """Print the plan of a pipeline; return what was printed."""
    assert motion_enhancer("plan", pipeline, *arguments) == 0
    return capsys.readouterr().out


def counts(printed):
    """Remembered and to compute of each step, from the printed table."""
    return {step: (row[0], row[1]) for step, *row in tables(printed)[0] if step in STEPS}


def test_before_a_run_everything_is_to_compute_and_nothing_is_left_behind(world, tmp_path, capsys):
    out = tmp_path / "run"
    printed = planned(capsys, "--out", out, *settings(world[1], None))
    assert printed.startswith("# Plan\n")
    assert counts(printed) == {**dict.fromkeys(STEPS, ("0", str(COUNT))), "token_selection": ("–", f"≤ {COUNT}")}
    assert {row[3] for row in tables(printed)[0] if row[0] in ("ddim_inversion", "attention_capture")} == {"< 1 s"}
    assert "No limits are known" in printed
    assert "Nothing, by the headers." in printed
    assert not list((tmp_path / "here").iterdir())
    assert [path.name for path in out.iterdir()] == ["store"]  # where `run` with this --out keeps its work
    assert {path.name for path in (out / "store").iterdir()} == {"plan", "model_digests"}


def test_after_a_run_everything_is_remembered(world, capsys):
    _, source, store, _ = world

    def kept():
        return {path for path in store.rglob("*") if path.relative_to(store).parts[0] not in ("plan", "model_digests")}

    before = kept()
    assert counts(planned(capsys, *settings(source, store))) == dict.fromkeys(STEPS, (str(COUNT), "0"))
    assert kept() == before


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("token_ratio=0.25", (True, True, True, False)),
        ("params_token_selection.unit=word", (True, True, True, False)),
        ("params_head_selection.mhs=false", (True, True, True, False)),
        ("params_attention_capture.rows=4", (True, True, False, None)),
        ("params_ddim_inversion.fit=crop", (True, False, False, None)),
    ],
)
def test_a_changed_parameter_names_what_is_to_compute(world, capsys, change, wanted):
    """True: remembered, False: to compute, None: an upper bound, as no heads can be chosen yet."""
    _, source, store, _ = world
    said = {True: (str(COUNT), "0"), False: ("0", str(COUNT)), None: ("–", f"≤ {COUNT}")}
    found = counts(planned(capsys, *settings(source, store, change)))
    assert found == {step: said[item] for step, item in zip(STEPS, wanted, strict=True)}


def copied(store, target):
    """Copy a store without the tasks' copies of their entries."""
    shutil.copytree(store, target, ignore=shutil.ignore_patterns("indexes"))


def test_the_tasks_copies_answer_for_each_entry_and_each_file_of_statistics(world, tmp_path, capsys, monkeypatch):
    """Of a run with other shards each entry is looked at, with the same answer."""
    _, source, store, _ = world
    copied(store, tmp_path / "store")
    asked, get = list[str](), FileBackend.get
    monkeypatch.setattr(FileBackend, "get", lambda backend, path: (asked.append(path), get(backend, path))[1])
    every = dict.fromkeys(STEPS, (str(COUNT), "0"))
    for at, shards, alone in ((store, 2, False), (store, 1, True), (tmp_path / "store", 2, True)):
        asked.clear()
        named = json.dumps([f"{k}/{shards}" for k in range(shards)])
        assert counts(planned(capsys, *settings(source, at, shards=named))) == every
        single = [path for path in asked if path.split("/")[0] in STEPS]
        assert bool(single) == alone
        assert len(single) <= 5 * COUNT  # an entry for each step, and the statistics
    assert len([path for path in asked if path.startswith("indexes/")]) == 1 + 3 * shards


def test_damaged_statistics_leave_an_upper_bound(world, tmp_path, capsys):
    """The rerun that heals them begins with `plan`, which must not stop it."""
    _, source, store, _ = world
    copied(store, tmp_path / "store")
    next((tmp_path / "store" / "attention_capture").glob("*/statistics-*")).write_bytes(b"damaged")
    found = counts(planned(capsys, *settings(source, tmp_path / "store")))
    assert found["token_selection"] == ("–", f"≤ {COUNT}")


@pytest.mark.parametrize(
    ("step", "remembered"),
    [
        ("dataset_import", (2, 2, 2, None)),
        ("ddim_inversion", (3, 2, 3, 3)),
        ("attention_capture", (3, 3, 2, None)),
        ("token_selection", (3, 3, 3, 2)),
    ],
)
def test_a_damaged_entry_is_work_to_do(world, tmp_path, capsys, step, remembered):
    """The rerun that heals it begins with `plan`, which must not stop it."""
    _, source, store, _ = world
    copied(store, tmp_path / "store")
    entries = (tmp_path / "store" / step).glob("*/entry.json")
    next(path for path in entries if "mask of" not in path.read_text()).write_bytes(b'{"step": "')
    said = [("–", f"≤ {COUNT}") if count is None else (str(count), str(COUNT - count)) for count in remembered]
    assert counts(planned(capsys, *settings(source, tmp_path / "store"))) == dict(zip(STEPS, said, strict=True))


def test_headers_are_read_side_by_side_and_a_failure_is_not_remembered(world, tmp_path, capsys, monkeypatch):
    _, source, _, _ = world
    together, local = threading.Barrier(COUNT), FileBackend.local

    def refused(backend, path):
        if not path.endswith(".mp4"):
            return local(backend, path)
        together.wait(10)
        raise ParameterError("AccessDenied", source=backend.uri, remedy="check the keys")

    with monkeypatch.context() as patch:
        patch.setattr(FileBackend, "local", refused)
        assert motion_enhancer("plan", "motion_priors", *settings(source, tmp_path / "store")) == 2
    assert "AccessDenied" in capsys.readouterr().err
    assert counts(planned(capsys, *settings(source, tmp_path / "store")))["dataset_import"] == ("0", str(COUNT))


def test_a_clip_without_a_decoder_is_unusable_and_looked_at_again(tmp_path, capsys):
    rows = [{"id": name, "video": f"{name}.mp4", "response": "It goes."} for name in ("good", "strange")]
    root = own(tmp_path / "data", rows)
    content = (root / "strange.mp4").read_bytes()
    (root / "strange.mp4").write_bytes(content.replace(b"avc1", b"zzzz"))
    for _ in range(2):
        printed = planned(capsys, *settings(root, tmp_path / "store"))
        assert "* `strange.mp4`: the video does not decode: no decoder for its codec" in printed
        assert counts(printed)["dataset_import"] == ("0", "1")
    assert len(list((tmp_path / "store" / "plan").iterdir())) == 1


def test_a_recipe_is_told_by_source(world, tmp_path, capsys):
    """A folder in two sources is looked at once; what is drawn, refused or without a video is said of each."""
    _, source, store, _ = world
    extra = own(tmp_path / "extra", [{"id": str(k), "video": "a.mp4", "response": f"It goes {k}."} for k in range(4)])
    with (extra / "data.jsonl").open("a") as file:
        file.write('{"image": "a.png", "response": "A cat."}\n{"video": "gone.mp4", "response": "It is gone."}\n')
    recipe = [str(source), {"uri": str(extra), "samples": 3, "weight": 2}, {"uri": str(source), "name": "again"}]
    printed = planned(capsys, *settings(json.dumps(recipe), store))
    assert rows(printed)["scenes"] == ["motionbench_caption", str(COUNT), f"{COUNT} of {COUNT}", "1"]
    assert rows(printed)["extra"] == ["jsonl", "1", "3 of 6", "2"]
    assert counts(printed)["dataset_import"] == (str(COUNT), "1")
    plain = printed.replace("\\", "")
    assert "extra: 3 samples drawn of the 4 that can be used" in plain
    assert "* `extra: rows with an image`: 1 row" in plain
    assert "* `extra: rows not drawn from`: 1 row, first data.jsonl:6: gone.mp4 is not in the source" in plain
    assert "Nothing, by the headers." in printed


def test_a_recipe_of_a_file_of_arguments_has_absolute_folders(tmp_path):
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps({"source": ["data", {"uri": "minio://b/x"}, {"uri": "more", "samples": 2}]}))
    known = {"source": "./data", "priors": "./priors"}
    values = with_absolute_paths(PipelineOptions(arguments=file, priors=["a", "sha256:0"]).values(known))
    here = Path.cwd()
    assert json.loads(values["source"]) == [
        f"{here}/data",
        {"uri": "minio://b/x"},
        {"uri": f"{here}/more", "samples": 2},
    ]
    assert json.loads(values["priors"]) == [f"{here}/a", "sha256:0"]
    assigned = PipelineOptions(assignments=['source=["x"]']).values(known)
    assert with_absolute_paths(assigned)["source"] == f'["{here}/x"]'
    for given, wanted in (
        (["data"], f"{here}/data"),
        (["data", '{"uri": "x"}'], f'["{here}/data", {{"uri": "{here}/x"}}]'),
    ):
        assert with_absolute_paths(PipelineOptions(source=given).values(known))["source"] == wanted


def test_the_table_is_the_artifact_and_its_columns_stand_under_each_other(world, tmp_path, capsys):
    _, source, store, _ = world
    printed = planned(capsys, *settings(source, store))
    shared = {"source": str(source), "vdm": "tiny-cogvideox", "num_steps": 2}
    params = {name: SMALL.get(name, {}) for name in STEP.form("motion_priors").planned}
    made = run_step(STEP, tmp_path, store, shared=shared, form="motion_priors", step_params=params)["plan"]
    assert made.read_text() == printed
    assert tables(printed)[0][0] == ["step", "remembered", "to compute", "A100 time", "bytes"]


def test_a_file_of_arguments_reads_as_in_run_and_set_wins(world, tmp_path, capsys):
    _, source, store, _ = world
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps({"token_ratio": 0.25, "params_attention_capture.rows": 4, "vdm": "no such model"}))
    found = counts(planned(capsys, "--arguments", file, *settings(source, store)))
    assert found["token_selection"] == ("0", str(COUNT))


def test_every_source_is_listed_once(world, tmp_path, capsys, monkeypatch):
    _, source, store, _ = world
    write_set(tmp_path / "bench", preset="bench", count=2, seed=9)
    bench = [f'benchmarks=["motionbench={tmp_path / "bench"}"]', "vlm=tiny-qwen2.5-vl"]
    walked, walk = [], FileBackend.walk
    monkeypatch.setattr(FileBackend, "walk", lambda self, prefix="": walked.append(self.root) or walk(self, prefix))
    planned(capsys, *settings(source, store, *bench), pipeline="motion_enhancer")
    assert sorted(walked) == sorted([source, tmp_path / "bench"])


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("params_sft.lerning_rate=1", "lerning_rate"),
        ("params_vlm_attention.viewing.fsp=1", "fsp"),
        ("params_sft.viewing={}", "viewing"),
        ("params_prior_set={}", "params_prior_set"),
        ("params_sft.lr_llm.inner=1", "params_sft.lr_llm"),
        ("parms_sft.lr_llm=1", "parms_sft"),
        ("num_steps=0", "num_steps"),
        ("vlm=no-such-model", "no-such-model"),
        ('shards=["0/2"]', "shards"),
        ('shards=["x"]', "'x' is not k/n"),
    ],
)
def test_a_mistake_ends_with_2_and_names_it(world, tmp_path, capsys, setting, word):
    _, source, store, _ = world
    bench = [f'benchmarks=["motionbench={source}"]', "vlm=tiny-qwen2.5-vl"]
    assert motion_enhancer("plan", *settings(source, store, *bench, setting)) == 2
    assert word in capsys.readouterr().err


def test_unknown_pipelines_and_unreadable_files_end_with_2(tmp_path, capsys):
    assert motion_enhancer("plan", "motion_prior") == 2
    assert motion_enhancer("plan", "motion_priors", "--arguments", tmp_path / "none.json") == 2
    (tmp_path / "list.json").write_text("[1]")
    assert motion_enhancer("plan", "motion_priors", "--arguments", tmp_path / "list.json") == 2
    assert "list.json" in capsys.readouterr().err


def test_a_nested_field_keeps_its_neighbours(world, tmp_path, capsys):
    _, source, store, _ = world
    write_set(tmp_path / "bench", preset="bench", count=2, seed=9)
    own = (
        f'benchmarks=["motionbench={tmp_path / "bench"}"]',
        "vlm=tiny-qwen2.5-vl",
        "params_vlm_attention.viewing.fps=2",
    )
    printed = planned(capsys, *settings(source, store, *own), pipeline="motion_enhancer")
    assert rows(printed)["motionbench"] == ["2", "2 of 4,018 items", "0", "0", "0", "0"]
    assert counts(printed)["attention_capture"] == (str(COUNT), "0")


def test_texts_that_the_video_model_cannot_read_are_counted_and_named(tmp_path, capsys):
    texts = ["the dog jumps", "the dog jumps ✈", "男人从左边走到右边", "ผู้ชายเดินไปทางขวา"]
    rows = [{"id": f"u{k}", "video": "0.mp4", "response": text} for k, text in enumerate(texts)]
    source = own(tmp_path / "data", rows)
    printed = planned(capsys, *settings(source, tmp_path / "store", text="response"))
    assert "**Warning:** 2 of 4 texts will be left out: the video model cannot read more than" in printed
    assert "`u2 (data.jsonl:3)`, `u3 (data.jsonl:4)`. Give them" in printed
    assert "1 of 4 texts have characters that it cannot read." in printed
    more = ("params_attention_capture.max_unreadable=1",)
    printed = planned(capsys, *settings(source, tmp_path / "store", *more, text="response"))
    assert "will be left out" not in printed
    assert "3 of 4 texts have characters that it cannot read." in printed


@pytest.mark.parametrize(
    ("count", "nodes", "said"),
    [
        (2, 193, None),
        (10, 529, "Retry of KFP's UI will be refused"),
        (44, 1957, "Argo ends a run whose record is larger than 1.05 MB compressed"),
        (60, 2629, "Argo ends a run whose record is larger than 1.05 MB compressed"),
    ],
)
def test_the_record_of_a_run_on_a_cluster(world, tmp_path, capsys, monkeypatch, count, nodes, said):
    """The command says what will happen; the task of a run that Argo would end stops it now, on a cluster alone."""
    _, source, store, _ = world
    write_set(tmp_path / "bench", preset="bench", count=2, seed=9)
    shards = [f"{k}/{count}" for k in range(count)]
    own = [f'benchmarks=["motionbench={tmp_path / "bench"}"]', "vlm=tiny-qwen2.5-vl", f"shards={json.dumps(shards)}"]
    printed = planned(capsys, *settings(source, store, *own), pipeline="motion_enhancer")
    assert f"The record that Argo keeps of the run: {nodes} nodes, " in printed
    assert ("**Warning:**" in printed) == (said is not None)
    assert said is None or said in printed
    if said is not None:
        assert "compile --gpus-per-shard" in printed
    shared = {"source": str(source), "vdm": "tiny-cogvideox", "vlm": "tiny-qwen2.5-vl", "num_steps": 2}
    shared |= {"shards": shards, "benchmarks": [f"motionbench={tmp_path / 'bench'}"]}
    params = {key: {} for key in STEP.form("motion_enhancer").planned} | {"dataset_import": {"allow_subset": True}}
    given = {"form": "motion_enhancer", "step_params": params}
    monkeypatch.setenv("KFP_POD_NAME", "a-pod")
    if count < 44:
        run_step(STEP, tmp_path, store, shared=shared, **given)
    else:
        with pytest.raises(ParameterError, match="ends a run above it"):
            run_step(STEP, tmp_path, store, shared=shared, **given)
        monkeypatch.delenv("KFP_POD_NAME")
        run_step(STEP, tmp_path, store, shared=shared, **given)


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Write what `compile` tells the plan of a pipeline whose tasks have a second each, and return the options."""
    told = Profile("a100", timeout=1, gpus_per_shard=2).limits(8).model_dump_json(exclude_none=True)
    container = {"env": [{"name": "OTHER", "value": "1"}, {"name": "RUN_LIMITS", "value": told}]}
    file = tmp_path / "compiled.yaml"
    file.write_text(
        yaml.safe_dump_all([{"deploymentSpec": {"executors": {"exec-plan": {"container": container}}}}, {}])
    )
    monkeypatch.setattr(cost, "A100_FLOPS", 1e4)
    monkeypatch.setattr(seeing, "_HOUR", 1e4 * 3600)
    return "--compiled", file


def in_pods(printed):
    """Return the rows of the table of pods by task."""
    (table,) = (table for table in tables(printed) if table[0][0] == "task")
    return {row[0]: row[1:] for row in table[1:]}


def test_a_shard_that_would_outlast_its_pod_ends_the_plan_with_2(world, tmp_path, capsys, compiled):
    _, source, _, _ = world
    assert motion_enhancer("plan", "motion_priors", *compiled, *settings(source, tmp_path / "store")) == 2
    told = capsys.readouterr()
    (late,) = [line for line in told.err.splitlines() if line.startswith("    attention_capture")]
    hours = in_pods(told.out)["attention_capture"][1]
    assert late == f"    attention_capture: {hours} for each of 2 shards with 2 GPUs, 1 s are allowed"
    assert "A try of a task may take 1 s, a GPU has 80 GB." in told.out
    assert re.search(r"remedy: compile --timeout \d+; or over_limits=go", told.err)
    assert "attention\\_capture: " in told.out.partition("**Warning:**")[2]
    given = settings(source, tmp_path / "store", over_limits="go")
    assert motion_enhancer("plan", "motion_priors", *compiled, *given) == 0
    told = capsys.readouterr()
    assert "**Warning:** attention\\_capture" in told.out


def test_what_is_remembered_takes_no_time(world, capsys, compiled):
    _, source, store, _ = world
    printed = planned(capsys, *compiled, *settings(source, store))
    assert {name: row[1:3] for name, row in in_pods(printed).items()} == {
        "ddim_inversion": ["0 s", "–"],
        "attention_capture": ["0 s", "–"],
    }


def test_tuning_and_evaluation_are_upper_bounds_that_warn(world, tmp_path, capsys, caplog, compiled):
    _, source, store, _ = world
    write_set(tmp_path / "bench", preset="bench", count=2, seed=9)
    own = [f'benchmarks=["motionbench={tmp_path / "bench"}"]', "vlm=tiny-qwen2.5-vl"]
    printed = planned(capsys, *compiled, *settings(source, store, *own), pipeline="motion_enhancer").replace("\\", "")
    found = in_pods(printed)
    assert [found[name][0] for name in ("vlm_attention", "sft")] == ["2 × 2 GPUs", "1 × 8 GPUs"]
    assert found["sft"][1].startswith("≤ ")
    assert f"**Warning:** sft: at most {found['sft'][1][2:]} for each of 1 node with 8 GPUs, 1 s are allowed" in printed
    assert "**Warning:** evaluation motionbench: at most" in printed
    assert "What fits: " in printed
    assert "more than its pod has: sft: at most" in caplog.text


def test_the_task_stops_by_the_limits_of_its_environment(world, tmp_path, monkeypatch, compiled):
    _, source, _, _ = world
    shared = {"source": str(source), "vdm": "tiny-cogvideox", "num_steps": 2}
    given = {"form": "motion_priors", "step_params": {name: SMALL.get(name, {}) for name in EXTRACTION}}
    run_step(STEP, tmp_path, tmp_path / "store", shared=shared, **given)
    monkeypatch.setenv("RUN_LIMITS", compiled_limits(compiled[1]).model_dump_json())
    with pytest.raises(ParameterError, match="does not fit its pods"):
        run_step(STEP, tmp_path, tmp_path / "store", shared=shared, **given)
    run_step(STEP, tmp_path, tmp_path / "store", shared={**shared, "over_limits": "go"}, **given)


@pytest.mark.parametrize("text", ["[", "[]", "{}", "deploymentSpec: {executors: {exec-plan: {container: {env: []}}}}"])
def test_a_file_that_compile_did_not_write_ends_with_2(world, tmp_path, capsys, text):
    (file := tmp_path / "other.yaml").write_text(text)
    assert motion_enhancer("plan", "motion_priors", "--compiled", file, *settings(world[1], world[2])) == 2
    assert f"{file} is no pipeline that was compiled for a cluster" in capsys.readouterr().err


def test_a_size_that_the_model_was_not_trained_at_is_said_on_the_page_and_in_the_log(world, capsys, caplog):
    _, source, store, _ = world
    given = settings(source, store, "params_ddim_inversion.height=32")
    printed = planned(capsys, *given).replace("\\", "")
    said = "tiny-cogvideox was trained at 17 × 64 × 64 (frames × height × width) and is given up to 17 × 32 × 64"
    assert f"**Warning:** {said}" in printed
    assert "params_ddim_inversion.height=64" in printed
    assert said in caplog.text
    assert "was trained at" not in planned(capsys, *settings(source, store))


def test_without_guidance_a_capture_costs_half(world, tmp_path, monkeypatch):
    _, source, _, _ = world

    def hours(scale):
        file = run_step(
            STEP,
            tmp_path,
            tmp_path / "store",
            shared={"source": str(source), "vdm": "tiny-cogvideox", "num_steps": 2},
            form="motion_priors",
            step_params={n: {**SMALL.get(n, {})} for n in EXTRACTION}
            | {"attention_capture": SMALL["attention_capture"] | {"guidance_scale": scale}},
        )["plan"]
        return next(row[3] for row in tables(file.read_text())[0] if row[0] == "attention_capture")

    monkeypatch.setattr(cost, "A100_FLOPS", 1e4)
    whole, half = hours(6.0), hours(1.0)
    assert whole.endswith(" h")
    assert float(half.removesuffix(" h")) / float(whole.removesuffix(" h")) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("both", [False, True])
def test_another_rule_of_positions_in_evaluation_is_a_warning(world, tmp_path, capsys, both):
    _, source, store, _ = world
    write_set(tmp_path / "bench", preset="bench", count=2, seed=9)
    own = [f'benchmarks=["motionbench={tmp_path / "bench"}"]', "vlm=tiny-qwen2.5-vl"]
    own += [f"params_{step}.viewing.positions=transformers" for step in ("benchmark_eval", "vlm_attention")[: 1 + both]]
    printed = planned(capsys, *settings(source, store, *own), pipeline="motion_enhancer")
    assert ("trained under the position rule `qwen`, evaluated under `transformers`" in printed) is not both
    assert ("Warning" in printed) is not both


def test_a_folder_of_priors_is_read_by_the_command_and_imported_by_the_step(world, tmp_path, capsys):
    _, _, store, folder = world
    bench = tmp_path / "bench"
    write_set(bench, preset="bench", count=2, seed=9)
    priors = load_manifest(folder, PriorSet)
    export_folder(Store(store.as_uri()), priors, tmp_path / "priors", "card")
    other = tmp_path / "other"
    shared = {"priors": str(tmp_path / "priors"), "vlm": "tiny-qwen2.5-vl", "benchmarks": [f"motionbench={bench}"]}
    given = {**shared, "benchmarks": json.dumps(shared["benchmarks"]), "store": other.as_uri()}
    assert f"sha256:{priors.digest}" in planned(capsys, *assigned(SOME, **given), pipeline="fine_tune")
    assert {path.name for path in other.iterdir()} == {"model_digests", "plan"}
    params = {name: {} for name in STEP.form("fine_tune").planned} | {"dataset_import": {"allow_subset": True}}
    outputs = run_step(STEP, tmp_path, other, shared=shared, form="fine_tune", step_params=params)
    assert outputs["prior_digest"].read_text() == f"sha256:{priors.digest}"
    assert Store(other.as_uri()).manifest(priors.digest, PriorSet) == priors
    assert import_folder(tmp_path / "priors", Store(other.as_uri())) == priors.digest


def test_a_model_is_counted_once_for_each_way_to_tune_it(world, tmp_path, capsys, monkeypatch):
    _, source, _, _ = world
    write_set(tmp_path / "bench", preset="bench", count=2, seed=9)
    own = (f'benchmarks=["motionbench={tmp_path / "bench"}"]', "vlm=tiny-qwen2.5-vl")
    counted, count = [], tuning.count
    monkeypatch.setattr(tuning, "count", lambda folder, params: counted.append(params) or count(folder, params))
    lora = "tuning=lora"
    ways = [["lr_llm=1"], ["lr_llm=2"], ['train=["llm"]'], [lora], [lora, "lora_alpha=2"], [lora, "lora_rank=4"]]
    ways += [[lora, 'lora_targets=["q_proj"]']]
    printed = []
    for way in ways:
        given = settings(source, tmp_path / "store", *own, *(f"params_sft.{setting}" for setting in way))
        printed.append(planned(capsys, *given, pipeline="motion_enhancer"))
    assert len(counted) == len(set(printed)) == 5
    assert (printed[0], printed[3]) == (printed[1], printed[4])


@pytest.mark.parametrize("pipeline", ["fine_tune", "motion_enhancer"])
def test_scratch_of_fine_tuning_holds_videos_where_the_store_is_no_folder(world, tmp_path, capsys, pipeline):
    _, source, store, folder = world
    write_set(tmp_path / "bench", preset="bench", count=2, seed=9)
    priors = load_manifest(folder, PriorSet)
    export_folder(Store(store.as_uri()), priors, tmp_path / "priors", "card")
    own = [f'benchmarks=["motionbench={tmp_path / "bench"}"]', "vlm=tiny-qwen2.5-vl", "params_sft.workers=3"]
    own += [f"priors={tmp_path / 'priors'}"] if pipeline == "fine_tune" else []
    given = assigned(SOME, *own) if pipeline == "fine_tune" else settings(source, None, *own)
    largest = max(path.stat().st_size for path in source.rglob("*.mp4") if "mask" not in path.name)
    with s3_server("plan"):
        remote = planned(capsys, *given, "--set", "store=minio://plan/work", pipeline=pipeline)
    assert rows(remote)["- videos"] == [readable_bytes(8 * 3 * largest)]
    local = planned(capsys, *given, "--set", f"store={(tmp_path / 'new').as_uri()}", pipeline=pipeline)
    assert "- the tuned model in bf16" in rows(local)
    assert "- videos" not in rows(local)


def test_data_that_has_to_be_mended_ends_with_3(world, tmp_path, capsys):
    _, _, store, _ = world
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "manifest.json").write_text("[]")
    for priors in (tmp_path / "here", tmp_path / "list", "sha256:" + "0" * 64):
        given = assigned(priors=priors, store=store.as_uri(), vlm="tiny-qwen2.5-vl")
        assert motion_enhancer("plan", "fine_tune", *given) == 3
        assert str(priors).removeprefix("sha256:") in capsys.readouterr().err
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "rows.jsonl").write_bytes(b"\xff\xfe")
    assert motion_enhancer("plan", "motion_priors", *settings(tmp_path / "source", store)) == 3
    assert "rows.jsonl" in capsys.readouterr().err


# What cannot be used --------------------------------------------------------------------------------------------------

ITEM = {"id": "i", "video": "a.mp4", "question": "Q?", "options": ["A. up", "B. down"], "answer": "A", "type": "AR"}


def of_benchmarks(world, *given, **params):
    """Options of a plan with these benchmarks."""
    _, source, store, _ = world
    fields = [f"params_dataset_import.{name}={value}" for name, value in params.items()]
    return settings(source, store, f"benchmarks={json.dumps(given)}", "vlm=tiny-qwen2.5-vl", *fields)


def test_what_of_a_benchmark_cannot_be_used_is_said_as_of_a_source(world, tmp_path, capsys):
    """One missing clip of two items, two rows of a bad type, one row twice."""
    items = [ITEM | {"id": f"i{n}", "question": f"Q{n}?"} for n in range(8)]
    items[1] |= {"video": "gone.mp4"}
    items[2] |= {"video": "gone.mp4"}
    items[3] |= {"type": "Dance"}
    del items[4]["type"]
    items[5] |= {"answer": ""}
    items.append(items[6] | {"id": "again"})
    lines(tmp_path / "data/items.jsonl", items)
    clip(tmp_path / "data/a.mp4")
    given = f"seed={tmp_path / 'data'}"
    assert motion_enhancer("plan", *of_benchmarks(world, given, max_failed_items=0.5, max_failed=1)) == 3
    said = capsys.readouterr().err
    assert "seed: 5 of 9 items cannot be asked (max_failed_items=0.5)" in said
    lost = {
        "seed: gone.mp4": "not in the source, named by i1 (items.jsonl:2) and 1 more",
        "seed: i3 (items.jsonl:4)": "SEED-Bench has no task type 'Dance'",
        "seed: i4 (items.jsonl:5)": "no task type",
        "seed: again (items.jsonl:9)": "the same video, question, options and response as i6 (items.jsonl:7)",
    }
    assert all(f"{unit}: {reason}" in said for unit, reason in lost.items())
    printed = planned(capsys, *of_benchmarks(world, given, max_failed_items=0.56), pipeline="motion_enhancer")
    assert rows(printed)["seed"] == ["2", "6 items", "1", "1", "2", "1"]
    assert all(f"* `{unit}`: " in printed for unit in lost)


def test_counts_and_repeated_names_of_benchmarks_end_a_plan(world, tmp_path, capsys):
    write_set(tmp_path / "bench", preset="bench", count=2, seed=9)
    given = f"motionbench={tmp_path / 'bench'}"
    assert motion_enhancer("plan", *of_benchmarks(world, given, allow_subset="false")) == 3
    said = capsys.readouterr().err
    assert "is not MotionBench as published" in said
    assert "of 1,478" in said
    assert "allow_subset" in said
    assert motion_enhancer("plan", *of_benchmarks(world, given, given)) == 2
    assert "named twice: ['motionbench']" in capsys.readouterr().err


def test_a_set_of_ones_own_is_planned_by_its_name(world, tmp_path, capsys):
    root = own(tmp_path / "data", [{name: value for name, value in ITEM.items() if name != "type"}])
    given = of_benchmarks(world, f"custom:gym={root}", allow_subset="false")
    assert rows(planned(capsys, *given, pipeline="motion_enhancer"))["custom:gym"] == [
        "1",
        "1 item",
        "0",
        "0",
        "0",
        "0",
    ]


@pytest.mark.parametrize("where", ["source", "benchmark", "benchmark that is refused"])
def test_14_000_missing_videos_are_a_line_and_a_file(world, tmp_path, capsys, where):
    names = [f"{n:05}.mp4" for n in range(14_000)]
    given = [ITEM, *(ITEM | {"id": name, "video": name} for name in names), ITEM | {"id": "bare", "type": "?"}]
    lines(tmp_path / "data/items.jsonl", [row | {"response": "A. up"} for row in given])
    clip(tmp_path / "data/a.mp4")
    if where == "source":
        assert motion_enhancer("plan", "motion_priors", *settings(tmp_path / "data", tmp_path / "store")) == 0
    else:
        allowed = 1 if where == "benchmark" else 0
        options = of_benchmarks(world, f"seed={tmp_path / 'data'}", max_failed_items=allowed)
        assert motion_enhancer("plan", *options, "--set", f"store={(tmp_path / 'store').as_uri()}") == 3 - 3 * allowed
    told = capsys.readouterr()
    assert len(told.out + told.err) < 10_000
    (address,) = set(re.findall(r"file://(\S+/failures/lists/plan-[0-9a-f]{16}\.txt)", told.out + told.err))
    whole = Path(address).read_text()
    assert all(f"{name}: not in the source" in whole for name in names)
    if where != "benchmark that is refused":
        assert "… and 13,980 more unusable videos, all in" in told.out
    else:
        assert "… and 13,981 more, all in" in told.err
