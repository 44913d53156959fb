"""Makes `before.tar.xz`: a store, and what was exported from it, as the code wrote them before manifests had parts.

It was run once, in a checkout of commit 1116dd7 and with that code: `PYTHONPATH=. python make_before.py /data`.
"""

import os
import shutil
import sys
import tarfile
from pathlib import Path

from components.core.artifacts import PriorSet, TunedModel, load_manifest
from components.sft.step import STEP as SFT
from components.synthetic.scenes import write_set
from components.vlm_attention.step import STEP as VLM_ATTENTION
from tests.chain import Chain
from tests.command import motion_enhancer
from tests.runner import run_step

VLM = {"vlm": "./twin"}
VIEWING = {"fps": 4.0, "num_frames": 4, "max_pixels": 84 * 84}
TRAINING = {"global_batch": 2, "max_steps": 1, "held_out": 0.0, "gradient_checkpointing": False}


def small_twin(folder: Path) -> None:
    """Write a model of a tenth of the tiny twin's size."""
    import torch
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    from components.models.vlm.qwen2_5_vl import make_tiny

    make_tiny(folder)
    config = AutoConfig.from_pretrained(folder)
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for name, value in {**text, "num_key_value_heads": 1, "layer_types": None}.items():
        setattr(config.text_config, name, value)
    for name, value in {"hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": 32}.items():
        setattr(config.vision_config, name, value)
    config.text_config.layer_types = ["full_attention"]
    torch.manual_seed(1)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)


def make(folder: Path) -> None:
    os.chdir(folder)
    small_twin(Path("twin"))
    write_set(Path("source"), "scenes", 3, seed=5, size=(64, 64), num_frames=17)
    shutil.rmtree("source/gt")
    uri = Path("store").absolute().as_uri()
    chain = Chain(Path("runs"), uri, "source")
    priors = chain.priors()
    parts = []
    for shard in chain.shards:
        shared = {**VLM, "shard": shard}
        given = (Path("runs"), uri, {"viewing": VIEWING}, shared, {"priors": priors})
        parts.append(run_step(VLM_ATTENTION, *given, form="frozen")["maps"])
    shared = {**VLM, "align_weight": 1.0, "seed": 5}
    model = run_step(SFT, Path("runs"), uri, TRAINING, shared, {"maps": parts})["model"]
    for name, path, kind in (("priors", priors, PriorSet), ("model", model, TunedModel)):
        digest = load_manifest(path, kind).digest
        assert motion_enhancer("export", f"sha256:{digest}", Path(name), "--store", uri) == 0
        print(name, digest)
    names = ("source", "store", "priors", "model")
    with tarfile.open("before.tar.xz", "w:xz", preset=9) as archive:
        for file in sorted(path for name in names for path in Path(name).rglob("*") if path.is_file()):
            if "_pictures/" not in str(file) and "scratch/" not in str(file):
                archive.add(file, filter=bare)


def bare(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who wrote a file and when."""
    entry.mtime, entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0o644, 0, 0, "", ""
    return entry


if __name__ == "__main__":
    make(Path(sys.argv[1]))
