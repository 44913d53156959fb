"""A family of video models is one module: `added/frame_sheet.py`, put into the package, runs through the steps."""

import copy
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch.utils.flop_counter import FlopCounterMode

from components.attention_capture.capture import CaptureSpec, capture_attention
from components.core.artifacts import AttentionMaps, HeadSelection, PriorSet, Trajectories
from components.core.errors import ParameterError
from components.kubeflow.tree import ROOT
from components.models import video
from components.plan.cost import ClipCost
from components.runtime.declaration import declared
from components.store.entries import Store
from components.synthetic.scenes import write_set
from tests.arithmetic import rounding
from tests.chain import Chain
from tests.command import python
from tests.runner import published, run_step

COUNT, SIDE, NUM_STEPS = 6, 32, 2  # six frames: CogVideoX takes no fewer than nine


@pytest.fixture(scope="module", autouse=True)
def _added():
    """`added` counts as part of the package, as if its module were copied into components/models/video."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "__path__", [*video.__path__, str(Path(__file__).parent / "added")])
        yield
    sys.modules.pop("components.models.video.frame_sheet", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    (family,) = (family for family in video.families() if family.name == "Frame sheet")
    target = tmp_path_factory.mktemp("twin") / "tiny-frame-sheet"
    return family.make_tiny(target, "sheet")


@pytest.fixture(scope="module")
def model(folder):
    return video.load_vdm(folder, "float32", "cpu")


def test_it_is_found_by_its_folder_and_its_transformer(folder, model, tmp_path):
    assert video.family_of(folder).name == "Frame sheet"
    assert video.family_of_transformer(model.transformer).name == "Frame sheet"
    with pytest.raises(ParameterError, match="CogVideoX or HunyuanVideo or Frame sheet"):
        video.load_vdm(tmp_path)
    with pytest.raises(ParameterError, match="CogVideoX or HunyuanVideo or Frame sheet"):
        video.family_of_transformer(torch.nn.Linear(1, 1))


def test_importing_it_takes_no_torch():
    code = (
        "import sys; from components.models import video; video.__path__.append('tests/models/video/added');"
        "print([f.name for f in video.families()], 'torch' in sys.modules)"
    )
    assert python("-c", code).stdout.strip() == "['CogVideoX', 'HunyuanVideo', 'Frame sheet'] False"


def test_captured_maps_are_softmaxes_of_its_queries_and_keys(model):
    """Text first in q and k, whatever the network has; the output stays that of the network's own processor."""
    x = torch.randn(1, COUNT, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text, calls = model.encode_text("a red square moves"), []
    plain = model.velocity(x, 400, text)

    def attend(q, k, v):
        calls.append(torch.softmax(q[0].double() @ k[0].double().mT / q.shape[-1] ** 0.5, -1))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    with video.family_of_transformer(model.transformer).attention(model.transformer, attend):
        model.velocity(x, 400, text)
    grid = model.patch_grid((COUNT, 8, 8))
    words = tuple(piece.index for piece in model.tokenize("a red square moves"))
    assert words == (1, 2, 3, 4)
    with capture_attention(model.transformer, CaptureSpec(words, grid)) as maps:
        captured = model.velocity(x, 400, text)
    # two layers of norm, q·k over 16, 112 keys, projections of 64, a layer of 256
    torch.testing.assert_close(captured, plain, atol=rounding(2 * (64 + 16 + 112 + 3 * 64 + 256), 4.0), rtol=0)
    full = torch.stack(calls).mean(0)
    length = full.shape[1] - COUNT * 16
    torch.testing.assert_close(maps.t2v.double(), full[:, list(words), length:], atol=rounding(16 + 112), rtol=0)


def test_the_steps_run_on_it(folder, tmp_path):
    write_set(tmp_path / "scenes", "scenes", 2, seed=3, size=(SIDE, SIDE), num_frames=COUNT)
    chain = Chain(tmp_path, tmp_path / "store", tmp_path / "scenes", 1, vdm=str(folder), num_steps=NUM_STEPS)
    store = Store(f"file://{tmp_path}/store")
    videos = chain.task("dataset_import", form="training")["videos"]
    size = {"height": SIDE, "width": SIDE}
    inverted = chain.task("ddim_inversion", {"videos": videos}, shard="0/1", **size)
    lines = [*published(inverted, "trajectories", Trajectories).lines]
    assert [line.grid.shape for line in lines] == [(COUNT, 4, 4)] * 2
    latents = load(store.read(lines[0].latents))["latents"]
    assert latents.shape == (NUM_STEPS + 1, COUNT, 4, 8, 8)
    captured = chain.task("attention_capture", {"trajectories": inverted["trajectories"]}, shard="0/1", pictures=1)
    line = next(iter(published(captured, "maps", AttentionMaps).lines))
    assert load(store.read(line.maps))["t2v"].shape == (4, len(store.pieces(line)), COUNT * 16)
    heads = chain.task("head_selection", {"maps": captured["maps"]})["heads"]
    assert all(len(line.heads) == 2 for line in published({"heads": heads}, "heads", HeadSelection).lines)
    part = chain.task("token_selection", {"heads": heads}, shard="0/1")["prior"]
    priors = chain.task("prior_set", {"shards": [part]}, form="collected")
    for line in published(priors, "priors", PriorSet).lines:
        selected = line.piece_counts.selected
        assert load(store.read(line.prior))["prior"].shape == (selected, COUNT, 4, 4)


def test_the_plan_knows_its_cost(folder, model, tmp_path):
    clip = ClipCost(video.family_of(folder).sizes(folder), COUNT, SIDE, SIDE)
    counted = replace(model, transformer=copy.deepcopy(model.transformer).to("meta"), device=torch.device("meta"))
    with FlopCounterMode(display=False) as counter:
        counted.velocity(torch.zeros(1, COUNT, 4, 8, 8), 400, model.encode_text(""))
    assert clip.tokens == COUNT * 16
    assert clip.inversion(1, 0) == pytest.approx(counter.get_total_flops(), rel=0.1)  # the last layer drops its text
    write_set(tmp_path / "scenes", "scenes", 2, seed=3, size=(SIDE, SIDE), num_frames=COUNT)
    chosen = {"source": str(tmp_path / "scenes"), "vdm": str(folder), "num_steps": NUM_STEPS, "shards": ["0/1"]}
    params = {name: {} for name in ("dataset_import", "attention_capture", "head_selection", "token_selection")}
    params |= {"ddim_inversion": {"height": SIDE, "width": SIDE, "num_frames": COUNT}}

    def plan(**inversion):
        given = params | {"ddim_inversion": params["ddim_inversion"] | inversion}
        options = {"form": "motion_priors", "step_params": given}
        return run_step(declared("plan"), tmp_path, tmp_path / "store", {}, chosen, **options)["plan"].read_text()

    assert "Nothing, by the headers." in plan()
    with pytest.raises(ParameterError, match="Frame sheet takes no fewer"):
        plan(num_frames=1)


def test_the_document_shows_this_very_file():
    parts = re.split(r"^## ", (ROOT / "docs/extending.md").read_text(), flags=re.M)
    (section,) = (part for part in parts if part.startswith("A video model"))
    blocks = re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S)
    source = (Path(__file__).parent / "added" / "frame_sheet.py").read_text()
    assert len(blocks) == 3
    assert all(block in source for block in blocks)
