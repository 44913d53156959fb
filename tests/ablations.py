"""The pipeline `ablations` run in this process, task by task, for tests of what variants share."""

from components.runtime.declaration import declared
from components.runtime.variants import LISTED
from tests.chain import SMALL
from tests.runner import run_step
from tests.vlm_attention.made import VIEWING

TINY = {
    **SMALL,
    "dataset_import": {"allow_subset": True},
    "vlm_attention": {"viewing": VIEWING, "pictures": 0},
    "benchmark_eval": {"viewing": VIEWING, "max_new_tokens": 4},
    "sft": {"max_steps": 1, "global_batch": 2, "held_out": 0.0},
}


class Ablations:
    """Runs the tasks of `ablations` on one store; `outputs` has every task's outputs, those of a loop in a list.

    `before` is called with each task's name before it starts.
    """

    def __init__(self, tmp_path, store, source, benchmark, variants, seeds, trials=2, before=None, **shared):
        self.tmp, self.store, self.before = tmp_path, store, before or (lambda name: None)
        self.shared = {"source": str(source), "vdm": "tiny-cogvideox", "vlm": "tiny-qwen2.5-vl", "num_steps": 2}
        self.shared |= {"benchmarks": [f"motionbench={benchmark}"], "variants": variants, "seeds": seeds, **shared}
        self.parts = [f"{k}/{trials}" for k in range(trials)]
        self.outputs = {}

    def task(self, name, step="", form="", varied=("variants",), item=None, **inputs):
        self.before(name)
        step = declared(step or name)
        single = {LISTED[key] for key in varied if key in LISTED}
        known = {*step.form(form).shared.model_fields, *varied} - single
        given = {key: value for key, value in self.shared.items() if key in known} | (item or {})
        params = TINY.get(step.name, {})
        given = {"params": params, "shared": given, "inputs": inputs, "form": form, "task": name}
        found = run_step(step, self.tmp, self.store, **given)
        self.outputs.setdefault(name, []).append(found)
        return found

    def run(self):
        videos = self.task("dataset_import", form="training")["videos"]
        shard = {"shard": "0/1"}
        trajectories = self.task("ddim_inversion", item=shard, videos=videos)["trajectories"]
        maps = self.task("attention_capture", item=shard, trajectories=trajectories)["maps"]
        heads = self.task("head_selection", maps=[maps])["heads"]
        prior = self.task("token_selection", item=shard, heads=heads)["prior"]
        priors = self.task("prior_set", form="collected", shards=[prior])["priors"]
        seen = self.task("vlm_attention", form="frozen", item=shard, priors=priors)["maps"]
        asked = self.task("benchmark_import", "dataset_import", "benchmark", varied=())["videos"]
        leakage = self.task("leakage_check", priors=priors, videos=asked)["leakage"]
        joined = self.task("training_set", shards=[seen])["maps"]
        one = {"benchmark": self.shared["benchmarks"][0]}
        before = self.task("baseline_eval", "benchmark_eval", "untouched", item=one, videos=asked)["result"]
        after = []
        for part in self.parts:
            trials = ("variants", "seeds", "trial_shard")
            dealt = {"trial_shard": part}
            model = self.task("sft", form="joined", varied=trials, item=dealt, joined=joined, leakage=leakage)["model"]
            every = ("variants", "benchmarks")
            result = self.task("tuned_eval", "benchmark_eval", "tuned", every, videos=asked, model=model)["result"]
            after.append(result)
        return self.task("comparison", varied=(), untouched=[before], tuned=after, priors=priors)
