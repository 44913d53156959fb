"""The inputs of the step: prior sets of Table 5's variants on real clips, made-up answers of two seeds of each."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from components.comparison.step import STEP
from components.core import artifacts as a
from components.core.records import Failure, sha256
from components.runtime.runner import run_step
from components.runtime.variants import Case, Index, parse_variants, slug
from components.store.entries import Store
from tests.report import world
from tests.runner import changed, load_manifest, put_manifest

SEEDS = (1, 2)
# types of FAVOR-Bench in place of MotionBench's, by order
FAVOR = ("AS", "HAC", "SAD", "MAD", "CM", "NSM")
# how often a variant's models are right where they were wrong, and which seed they draw with
GAINS = {"no MHS, no MTTI": 0.1, "2 steps": -0.25, "5 steps": 0.35, "10 steps": 0.5, "25 % of heads and tokens": 0.15}
LEFT_OUT = Failure(unit="0123456789abcdef", task="vlm_attention", reason="coverage 0.31 is below min_coverage=0.5")


@dataclass
class World:
    """Cases with their manifests, by input, and where they lie."""

    folder: Path
    store: Store
    cases: dict = field(default_factory=dict)

    def compare(self, out, baseline="first", rerun="0", **params):
        """Run the step; the paths of its outputs."""
        inputs = {
            name: [_put(out / name / str(k), part, self.store) for k, part in enumerate(parts)]
            for name, parts in self.cases.items()
        }
        values = {"store": self.store.uri, "store_patience": 1, "params": params, "rerun": rerun, "baseline": baseline}
        return run_step(STEP, out, values, inputs)

    def page(self, outputs):
        """The whole page of a finished step."""
        return self.store.read(load_manifest(outputs["report"], a.Report, self.store.uri).page).decode()


def _put(folder, cases, store):
    """Write an artifact of several cases."""
    for case, manifest in cases:
        put_manifest(folder / "variants" / case.folder, manifest, store.uri)
    folder.mkdir(parents=True, exist_ok=True)
    index = Index(cases=[case for case, _ in cases])
    (folder / "variants.json").write_text(json.dumps(index.model_dump(mode="json")))
    return folder


def _case(variant, seed=None, benchmark=None):
    parts = [slug(variant.name), *([] if seed is None else [f"seed-{seed}"]), *([benchmark] if benchmark else [])]
    return Case(folder="/".join(parts), variant=variant.name, changes=variant.changes, seed=seed, benchmark=benchmark)


def _priors(run, variant):
    """The run's prior set as another setting would have made it: more steps, sharper maps."""
    steps, heads = variant.changes.get("num_steps", 5), variant.changes.get("head_ratio", 0.5)
    mhs = variant.changes.get("params_head_selection", {}).get("mhs", True)
    power = steps / 5 * (1.4 if heads < 0.5 else 0.7 if heads > 0.5 else 1) * (1 if mhs else 0.4)
    lines = []
    for line in run.priors.lines:
        prior = load(run.store.read(line.prior))["prior"] ** power
        name = f"{line.sample.id}/{steps}-{heads}-{mhs}"
        ref = world.tensors(run.store, name, prior=world.density(prior))
        lines.append(line.model_copy(update={"prior": ref, "key": sha256(name.encode())[:32]}))
    record = dict(run.priors.provenance)
    for task, scalars, params in (
        ("ddim_inversion", {"num_steps": steps}, {}),
        ("head_selection", {"head_ratio": heads}, {"mhs": mhs}),
        ("token_selection", {"token_ratio": variant.changes.get("token_ratio", 0.5)}, {}),
    ):
        own = record[task]
        update = {"scalars": own.scalars | scalars, "params": own.params | params}
        record[task] = own.model_copy(update=update)
    return changed(run.priors, lines=lines, provenance=record)


def _results(run, rng, gain):
    """Both benchmarks answered by a model that begins as the untouched one and gains."""
    start = list(run.untouched[0].lines)
    flips = [rng.random() < abs(gain) for _ in start]
    right = [(gain > 0) if flip else line.correct for line, flip in zip(start, flips, strict=True)]
    lines = [
        line.model_copy(update={"correct": one, "parsed": line.parsed or "A"})
        for line, one in zip(start, right, strict=True)
    ]
    known = sorted({line.sample.question_type for line in start})
    names = dict(zip(known, FAVOR, strict=False))
    others = [
        line.model_copy(
            update={
                "sample": line.sample.model_copy(
                    update={"question_type": names[line.sample.question_type], "protocol": "favor"}
                ),
                "correct": bool(line.correct) != (rng.random() < 0.2),
            }
        )
        for line in lines
    ]
    first = changed(run.tuned[0], lines=lines, left_out=[LEFT_OUT])
    return {"motionbench": first, "favor": changed(first, protocol="favor", lines=others)}


def build(folder, variants=("paper_table5",), clips=4, questions=48, seeds=SEEDS):
    """The world of these variants."""
    run, rng = world.build(folder, clips=clips, questions=questions), np.random.default_rng(7)
    start = _results(run, rng, 0.0)
    given = parse_variants(variants)
    found = World(folder, run.store, {"untouched": [], "tuned": [], "priors": []})
    found.cases["priors"].append([(_case(one), _priors(run, one)) for one in given])
    found.cases["untouched"] = [[(_case(one), start[name]) for one in given] for name in start]
    for seed in seeds:
        part = []
        for one in given:
            answered = _results(run, rng, GAINS.get(one.name, 0.3) + 0.04 * rng.normal())
            part += [(_case(one, seed, name), result) for name, result in answered.items()]
        found.cases["tuned"].append(part)
    return found
