"""Straight lines through the predicted sizes of runs; `python -m tests.kubeflow.run_sizes` writes them for `plan`.

A process compiles for one profile, hence the process of its own. A100 nodes make larger records than CPU nodes.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import yaml

from components.kubeflow import component
from components.kubeflow.arguments import PIPELINES, pipeline
from components.kubeflow.compile import as_yaml
from components.kubeflow.images import VARIANTS
from components.kubeflow.run_size import run_size
from components.kubeflow.scheduling import PROFILE, Profile
from components.plan import run_size as planned

FILE = Path(planned.__file__).with_suffix(".json")
IMAGE = f"registry.example.com/team/motion-enhancer@sha256:{'1' * 64}"
SHARDS, BENCHMARKS, TRIALS = (2, 44), (1, 4), (2, 24)


def documents(kind="a100"):
    """The pipelines, compiled for a cluster."""
    PROFILE.set(Profile(kind))
    component.use_images(dict.fromkeys(VARIANTS, IMAGE))
    return {name: list(yaml.load_all(as_yaml(pipeline(name)), Loader=yaml.CSafeLoader)) for name in PIPELINES}


def values(shards, benchmarks=1, trials=0):
    """Parameters that set the numbers of iterations."""
    asked = [f"{name}=minio://bucket/benchmarks/{name}" for name in ("motionbench", "favor", "seed", "videomme")]
    found = {"shards": [f"{k}/{shards}" for k in range(shards)], "benchmarks": asked[:benchmarks]}
    return found | ({"trial_shards": [f"{k}/{trials}" for k in range(trials)]} if trials else {})


def lines(compiled):
    """Fixed part, part of a shard, of a benchmark, and where trainings are dealt out of a part, of nodes and bytes."""

    def size(*counts):
        return asdict(run_size(compiled, values(*counts)))

    dealt = "trial_shards" in compiled[0]["root"]["inputDefinitions"]["parameters"]
    ranges = [SHARDS, BENCHMARKS, *([TRIALS] if dealt else [])]
    least = [few for few, _ in ranges]
    low, steps = size(*least), []
    for place, (few, many) in enumerate(ranges):
        high = size(*least[:place], many, *least[place + 1 :])
        steps.append({name: (high[name] - low[name]) / (many - few) for name in low})
    fixed = {name: low[name] - sum(few * step[name] for few, step in zip(least, steps, strict=True)) for name in low}
    return {name: [round(part[name]) for part in (fixed, *steps)] for name in low}


def written():
    """The file's text."""
    rows = [f" {json.dumps(name)}: {json.dumps(lines(compiled))}" for name, compiled in documents().items()]
    return "{\n" + ",\n".join(rows) + "\n}\n"


if __name__ == "__main__":
    if sys.argv[1:]:  # for the test: what is predicted, by pipeline and number of shards
        counts = json.loads(sys.argv[1])
        found = {
            name: [asdict(run_size(compiled, values(*count))) for count in counts]
            for name, compiled in documents().items()
        }
        print(json.dumps(found))
    else:
        FILE.write_text(written(), encoding="utf-8")
