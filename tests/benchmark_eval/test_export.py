"""An evaluation in other tools' files: lmms-eval's layout field by field, a table, a submission, and the command."""

import csv
import io
import json

import pytest

from components.benchmark_eval.export import exported
from components.core.artifacts import EvalResult, ItemResult
from components.core.errors import DataError, ParameterError
from components.core.records import Option, Ref, Sample, StepRecord, Video
from components.store.entries import Store
from tests.benchmark_eval.world import make_world, run
from tests.benchmark_eval.world import result as evaluation
from tests.command import motion_enhancer

OPTIONS = [Option(letter="A", text="Walks, then sits"), Option(letter="B", text='says "no"')]


def item(name, video, reply, parsed, answer="A", prompt="Which?\nA. …", kind="Camera Motion"):
    ref = Ref(path="v", sha256=f"{video:064x}", bytes=1, task="t")
    asked = {"question": "Which?", "options": OPTIONS, "response": "", "answer": answer, "question_type": kind}
    sample = Sample(id=f"{99 - name:016x}", uid=f"q{name}", is_instruction=False, **asked, protocol="motionbench")
    shown = Video(file=ref, name=f"clips/{video}.mp4", width=2, height=2, rotation=0, duration=1, times=[0.0])
    right = bool(answer) and parsed == answer
    told = {"reply": reply, "parsed": parsed, "rule": "letter", "correct": right, "official_correct": right}
    return ItemResult(video=shown, sample=sample, key="0" * 32, prompt=prompt, **told, frames=[0])


LINES = [
    item(3, 1, "**A**", "A"),
    item(1, 0, "A", "A"),
    item(2, 0, "I cannot say, I mean,\nit is hard", ""),
    item(4, 2, "B", "B", kind="AO"),
]


def result(lines=LINES, **changed):
    record = StepRecord(version="4", params={"max_new_tokens": 16}, scalars={})
    fields = {"protocol": "motionbench", "model": "org/qwen:7b", "scores": [], "lines": lines}
    return EvalResult(kind="EvalResult", provenance={"baseline_eval": record}, **{**fields, **changed})


def lmms(found):
    """The parsed results and samples of an export, and the names of its files."""
    files = exported(found, "lmms-eval")
    (results,) = [json.loads(text) for name, text in files.items() if name.endswith("_results.json")]
    (lines,) = [text for name, text in files.items() if name.endswith(".jsonl")]
    return results, [json.loads(line) for line in lines.splitlines()], sorted(files)


def test_lmms_evals_layout():
    """The fields of `evaluation_tracker.py` and what its readers look for (`baselines/loader.py`, `tui/server.py`)."""
    found = result()
    results, samples, names = lmms(found)
    stem = f"org_qwen_7b/{found.digest[:16]}"
    assert names == [f"{stem}_results.json", f"{stem}_samples_motionbench.jsonl"]
    assert {"results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples"} <= set(
        results
    )
    assert {"config", "task_hashes", "model_name", "model_name_sanitized", "git_hash", "date"} <= set(results)
    scores = results["results"]["motionbench"]
    assert scores["alias"] == "MotionBench"
    assert scores["motionbench_overall,none"] == 0.5
    assert scores["motionbench_average,none"] == pytest.approx((2 / 3 + 0) / 2)
    assert scores["motionbench_overall_stderr_clt,none"] == pytest.approx((0.25 / 3) ** 0.5)
    # videos' sums less half their items: 0, ½, −½; worth 16 / 6 equally heavy ones
    clustered = (0.5 / 16 * (16 / 6) / (16 / 6 - 1)) ** 0.5
    assert scores["motionbench_overall_stderr_clustered,none"] == pytest.approx(clustered)
    assert scores["motionbench_average_stderr_clustered,none"] == "N/A"
    assert results["n-samples"] == {"motionbench": {"original": 4, "effective": 4}}
    assert results["config"]["provenance"]["baseline_eval"]["params"] == {"max_new_tokens": 16}
    assert results["config"]["result"] == f"sha256:{found.digest}"
    assert [sample["doc_id"] for sample in samples] == [0, 1, 2, 3]
    assert [sample["uid"] for sample in samples] == ["q1", "q2", "q3", "q4"]
    third = samples[2]
    assert (third["target"], third["resps"], third["filtered_resps"]) == ("A", ["**A**"], "A")
    assert (third["input"], third["token_counts"], third["video"]) == ("Which?\nA. …", [None], "clips/1.mp4")
    assert third["motionbench_overall"] == {"score": 1.0, "total": 1.0, "video": f"{1:064x}"}
    first_score = [next(value for key, value in sample.items() if "score" in key.lower()) for sample in samples]
    assert first_score == [1.0, 0.0, 1.0, 0.0]  # the baseline's reader takes the first such key
    assert len({sample["doc_hash"] for sample in samples}) == 3  # q1 and q2 are one question about one video


def test_metrics_of_some_types_are_only_on_their_items():
    lines = [item(k, k, "A", "A", kind=kind) for k, kind in enumerate(["Scene Understanding", "AR", "AP"])]
    results, samples, _ = lmms(result(lines, protocol="seed"))
    assert results["results"]["seed"].keys() >= {"seed_all,none", "seed_image,none", "seed_video,none"}
    groups = [sorted(key for key in sample if key.startswith("seed_")) for sample in samples]
    assert groups == [["seed_all", "seed_image"], ["seed_all", "seed_video"], ["seed_all", "seed_video"]]


def test_equal_results_equal_bytes_and_unknown_prompts_are_refused():
    forth, back = (lmms(result(lines)) for lines in (LINES, LINES[::-1]))
    assert forth[1] == back[1]  # the order is that of the source's names
    assert exported(result(), "lmms-eval") == exported(result(), "lmms-eval")
    with pytest.raises(DataError, match="without its prompts"):
        exported(result([item(1, 0, "A", "A", prompt=None)]), "lmms-eval")


def test_a_models_name_stays_in_the_folder():
    for model in ("../../etc", "..", "/root"):
        for name in exported(result(model=model), "lmms-eval"):
            assert not name.startswith(("/", "."))
            assert ".." not in name.split("/")


def test_csv():
    held_out = [item(5, 2, "B", "B", answer="")]
    ((name, text),) = exported(result(held_out=held_out), "csv").items()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert name == "motionbench.csv"
    assert [row["uid"] for row in rows] == ["q1", "q2", "q3", "q4", "q5"]
    assert rows[1]["reply"] == "I cannot say, I mean,\nit is hard"
    assert rows[0]["options"] == 'A. Walks, then sits\nB. says "no"'
    verdicts = [(row["parsed"], row["answer"], row["correct"], row["official_correct"]) for row in rows]
    assert verdicts == [
        ("A", "A", "1", "1"),
        ("", "A", "0", "0"),
        ("A", "A", "1", "1"),
        ("B", "A", "0", "0"),
        ("B", "", "", ""),
    ]
    assert rows[0]["prompt"] == "Which?\nA. …"
    assert exported(result([item(1, 0, "A", "A", prompt=None)]), "csv")  # an older result will do


def test_submission():
    """The benchmark's own file, held-out items among it; not every benchmark has one."""
    files = exported(result(LINES[:1], held_out=[item(5, 2, "B", "B", answer="")]), "submission")
    assert {name: json.loads(text) for name, text in files.items()} == {"motionbench.json": {"q3": "A", "q5": "B"}}
    with pytest.raises(ParameterError, match="no authors of SEED-Bench"):
        exported(result(protocol="seed"), "submission")
    with pytest.raises(ParameterError, match="lmms-eval, csv, submission"):
        exported(result(), "xlsx")


def test_what_a_model_was_asked_is_exported(tmp_path):
    """From a real evaluation: prompts in the template of the run, replies, letters."""
    evaluated = evaluation(run(make_world(tmp_path), tmp_path, prompt_template="{question}\nChoose:\n{options}"))
    _, samples, _ = lmms(evaluated)
    assert len(samples) == 8
    for sample, line in zip(samples, sorted(evaluated.lines, key=lambda line: line.sample.uid), strict=True):
        options = "\n".join(f"{option.letter}. {option.text}" for option in line.sample.options)
        assert sample["input"] == f"{line.sample.question}\nChoose:\n{options}"
        assert (sample["resps"], sample["filtered_resps"]) == ([line.reply], line.parsed)


def test_the_command(tmp_path, capsys):
    """By digest, or from the artifact's folder; nothing is overwritten."""
    store, found = Store(str(tmp_path / "store")), result()
    digest = store.publish(found)
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact/manifest.json").write_bytes(found.to_bytes())
    command = ("export", f"sha256:{digest}", tmp_path / "out", "--store", store.uri)
    assert motion_enhancer(*command, "--format", "lmms-eval") == 0
    printed = capsys.readouterr().out.split()
    assert [line.removeprefix(f"{tmp_path}/out/") for line in printed] == list(exported(found, "lmms-eval"))
    table = ("export", tmp_path / "artifact", tmp_path / "table", "--store", store.uri, "--format", "csv")
    assert motion_enhancer(*table) == 0
    written = (tmp_path / "table/motionbench.csv").read_bytes().decode()
    assert written == exported(found, "csv")["motionbench.csv"]
    assert motion_enhancer(*table) == 2
    assert "is not empty" in capsys.readouterr().err
    assert motion_enhancer("export", tmp_path / "artifact", "model", tmp_path / "new", "--format", "csv") == 2
    assert motion_enhancer("export", tmp_path / "artifact", tmp_path / "new", "--store", store.uri) == 3
    assert "export … --format" in capsys.readouterr().err
