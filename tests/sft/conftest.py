"""Training jobs on tiny models of all families and real clips."""

from pathlib import Path

import pytest

from components.core.artifacts import VlmMaps
from components.models.registry import ensure_tiny
from components.sft.lines import SharedLines, write_lines
from components.sft.loop import Job
from components.sft.settings import SftSettings
from components.vlm_attention.step import STEP as VLM_ATTENTION
from tests.models.vlm.cases import NAMES, QWEN
from tests.runner import published, run_step
from tests.vlm_attention import made

RATES = {"lr_vision": 1e-3, "lr_llm": 1e-3, "warmup": 0.0}
EVERY = {"norms_every": 3, "eval_every": 3, "save_every": 100}
FAST = {"global_batch": 2, "max_steps": 6, "held_out": 0.34, "gradient_checkpointing": False, **RATES, **EVERY}


@pytest.fixture(scope="module")
def world(made_priors):
    """A folder with a store, and by model the artifacts of its token maps, in two shards."""
    return make_world(made_priors)


def make_world(made_priors):
    """As the fixture, for tests elsewhere."""
    folder, _, artifact = made_priors

    def maps(name, shard):
        scalars, params, inputs = {"vlm": name, "shard": shard}, {"viewing": made.VIEWING}, {"priors": artifact}
        return run_step(VLM_ATTENTION, folder, folder / "store", params, scalars, inputs, form="frozen")["maps"]

    return folder, {name: [maps(name, shard) for shard in ("0/2", "1/2")] for name in NAMES}


def make_job(world, out, name=QWEN, align_weight=1.0, key=None, store=None, store_patience=1.0, **settings):
    """A job on a module's data that writes into the new folder `out`; its key is the folder's name unless given."""
    folder, found = world
    shards = [published({"maps": path}, "maps", VlmMaps) for path in found[name]]
    out.mkdir()
    write_lines(out, (line for shard in shards for line in shard.lines))
    settings = SftSettings.model_validate({"viewing": made.VIEWING, **FAST, **settings})
    fields = {"key": key or f"{out.parent.name}-{out.name}", "lines": str(out), "out": str(out)}
    fields |= {"vlm": str(ensure_tiny(name)), "store": store or str(folder / "store"), "seed": 1}
    fields["store_patience"] = store_patience
    return Job(settings=settings, align_weight=align_weight, **fields)


def lines_of(job):
    """A job's lines, in their order."""
    return [*SharedLines.open(Path(job.lines))]


@pytest.fixture
def job(world, tmp_path):
    """Jobs on the module's data; each is a training of its own unless it names a key."""
    count = iter(range(100))
    return lambda *args, **settings: make_job(world, tmp_path / f"out-{next(count)}", *args, **settings)
