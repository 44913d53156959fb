"""The compiled pipeline `ablations` under KFP's local orchestrator: what executes first, unchanged, and with more."""

import json
import re
from collections import Counter

import pytest

from components.core.artifacts import EvalResult
from components.runtime.variants import read_index
from components.store.entries import Store
from components.synthetic.scenes import write_set
from tests.ablations import TINY
from tests.command import python

VARIANTS = [{"name": "aligned"}, {"name": "plain SFT", "align_weight": 0}, {"name": "again"}]
MORE = [*VARIANTS, {"name": "uniform", "params_sft.prior_control": "uniform"}]
ALONE = {"plan", "dataset_import", "head_selection", "prior_set", "benchmark_import", "leakage_check", "training_set"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a source, a benchmark and the parameters that all runs share."""
    tmp = tmp_path_factory.mktemp("ablations")
    write_set(tmp / "scenes", preset="scenes", count=2, seed=5)
    write_set(tmp / "bench", preset="bench", count=1, seed=6)
    values = {f"params_{step}.{name}": value for step, fields in TINY.items() for name, value in fields.items()}
    values |= {"source": str(tmp / "scenes"), "benchmarks": [f"motionbench={tmp / 'bench'}"], "seeds": [1]}
    values |= {"vdm": "tiny-cogvideox", "vlm": "tiny-qwen2.5-vl", "num_steps": 1, "shards": ["0/1"]}
    (tmp / "arguments.json").write_text(json.dumps(values))
    return tmp


def run(tmp, variants):
    """One run in a process of its own; returns how often each task was executed, and what was printed."""
    words = ["--arguments", tmp / "arguments.json", "--set", f"variants={json.dumps(variants)}"]
    answer = python("-m", "components.cli", "run", "ablations", "--out", tmp / "out", *words)
    return Counter(re.findall(r"▸ (\w+)", answer.stderr)), answer.stdout


def test_all_variants_in_one_run_and_another_one_on_top(base):
    tasks, printed = run(base, VARIANTS)
    in_loops = {"ddim_inversion": 1, "attention_capture": 1, "token_selection": 1, "vlm_attention": 1}
    in_loops |= {"baseline_eval": 1, "sft": 2, "tuned_eval": 2}
    assert tasks == {**dict.fromkeys(ALONE, 1), **in_loops, "comparison": 1}
    assert f"\nreport  {base / 'out' / 'report.html'}\n" in printed
    (stored,) = base.glob("out/store/**/manifests")
    store, found = Store(stored.parent.as_uri()), {}
    for folder in base.glob("out/artifacts/**/tuned-eval*/result"):
        for case, place in read_index(folder):
            found[case.variant] = store.opened(place, EvalResult).provenance["sft"].scalars["align_weight"]
    assert found == {"aligned": 1, "plain SFT": 0, "again": 1}
    assert len(list(stored.parent.glob("sft/*/entry.json"))) == 2
    assert run(base, VARIANTS)[0] == {"plan": 1}
    run(base, MORE)
    assert len(list(stored.parent.glob("sft/*/entry.json"))) == 3
    assert len(list(stored.parent.glob("ddim_inversion/*/entry.json"))) == 2
