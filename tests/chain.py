"""The extraction (steps 0 to prior set) run in this process, for tests of what is remembered and what is computed."""

from components.runtime.declaration import declared
from tests.runner import metrics, run_step

SMALL = {
    "ddim_inversion": {"height": 64, "width": 64, "num_frames": 17, "dtype": "float32"},
    "attention_capture": {"rows": 8, "pictures": 0},
}


class Chain:
    """Runs the steps one after another on one store and keeps every task's outputs and counts."""

    def __init__(self, tmp_path, store, source, shards=2, rerun=None, given=None, **shared):
        self.tmp, self.store, self.rerun, self.given = tmp_path, store, rerun or {}, given or {}
        self.shards = [f"{k}/{shards}" for k in range(shards)]
        self.shared = {"source": str(source), "vdm": "tiny-cogvideox", "num_steps": 2, **shared}
        self.counts, self.outputs = {}, {}

    def task(self, name, inputs=None, form="", shard=None, **params):
        step = declared(name)
        given = self.shared | ({"shard": shard} if shard else {})
        outputs = run_step(
            step,
            self.tmp,
            self.store,
            params={**SMALL.get(name, {}), **self.given.get(name, {}), **params},
            shared={key: value for key, value in given.items() if key in step.form(form).shared.model_fields},
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
