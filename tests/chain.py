"""The extraction (steps 0 to prior set) run in this process, for tests of what is remembered and what is computed."""

import importlib

from tests.runner import metrics, run_step

SMALL = {
    "ddim_inversion": {"height": 64, "width": 64, "num_frames": 17, "dtype": "float32"},
    "attention_capture": {"rows": 8, "pictures": 0},
}


def step(name):
    return importlib.import_module(f"components.{name}.step").STEP


class Chain:
    """Runs the steps one after another on one store and keeps every task's outputs and counts."""

    def __init__(self, tmp_path, store, source, shards=2, rerun=None, **scalars):
        self.tmp, self.store, self.shards, self.rerun = (
            tmp_path,
            store,
            [f"{k}/{shards}" for k in range(shards)],
            rerun or {},
        )
        self.scalars = {"source": str(source), "vdm": "tiny-cogvideox", "num_steps": 2, **scalars}
        self.counts, self.outputs = {}, {}

    def task(self, name, inputs=None, form="", shard=None, **params):
        declared = step(name)
        wanted = declared.form(form).scalars
        scalars = {key: value for key, value in self.scalars.items() if key in wanted} | (
            {"shard": shard} if shard else {}
        )
        outputs = run_step(
            declared,
            self.tmp,
            self.store,
            params={**SMALL.get(name, {}), **params},
            scalars=scalars,
            inputs=inputs,
            form=form,
            rerun=self.rerun.get(name, "0"),
        )
        if "metrics" in outputs:
            found = metrics(outputs)
            computed = round(found["units"] * (1 - found["share_remembered"])) - int(found["failed"])
            self.counts[name] = self.counts.get(name, 0) + computed
        self.outputs.setdefault(name, []).append(outputs)
        return outputs

    def capture(self):
        videos = self.task("dataset_import", form="training")["videos"]
        maps = []
        for shard in self.shards:
            trajectories = self.task("ddim_inversion", {"videos": videos}, shard=shard)["trajectories"]
            maps.append(self.task("attention_capture", {"trajectories": trajectories}, shard=shard)["maps"])
        return maps

    def priors(self):
        heads = self.task("head_selection", {"maps": self.capture()})["heads"]
        parts = [self.task("token_selection", {"heads": heads}, shard=shard)["prior"] for shard in self.shards]
        return self.task("prior_set", {"shards": parts}, form="collected")["priors"]
