"""The family that docs/extending shows, one file, runs through every step that reads a VLM."""

import json
import sys

import pytest
import torch

from components.benchmark_eval.step import STEP as BENCHMARK_EVAL
from components.core import artifacts as a
from components.core.errors import DataError
from components.core.records import Option, StepRecord
from components.core.text import sample_id
from components.kubeflow.tree import ROOT
from components.media.viewing import Viewing
from components.models import vlm
from components.models.tuned import materialize
from components.models.vlm.example import collate
from components.models.vlm.model import load_vlm
from components.models.vlm.reader import open_reader
from components.sft.step import STEP as SFT
from components.store.entries import Store
from components.vlm_attention.step import STEP as VLM_ATTENTION
from tests.models.vlm.cases import TALK, example
from tests.runner import published, put_manifest, run_step
from tests.vlm_attention import made

HEAD = "```python\n# components/models/vlm/dots.py\n"
TRAINING = {"max_steps": 3, "global_batch": 2, "held_out": 0.0, "norms_every": 1, "warmup": 0.0, "lr_vision": 1e-2}


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    """A tiny model of the documented family, whose module lies in a folder that the package has besides its own."""
    pages = "".join(page.read_text() for page in sorted((ROOT / "docs").glob("extending*.md")))
    folder = tmp_path_factory.mktemp("dots")
    (folder / "dots.py").write_text(pages.split(HEAD)[1].split("```\n")[0])
    vlm.__path__.append(str(folder))
    family = next(family for family in vlm.families() if family.name == "Dots")
    yield family.make_tiny(folder / "model", "")
    vlm.__path__.pop()
    del sys.modules["components.models.vlm.dots"], vlm.dots


def test_what_is_particular_comes_from_the_file(dots):
    toy = load_vlm(dots, torch.float32, "cpu")
    one = example(toy, n=3)
    assert one.text.count("<dot>") == 3 * 16 == len(one.video_columns)
    assert one.grid.shape == (3, 4, 4)
    steps = one.position_ids[0].diff()
    assert int((steps == 0).sum()) == 3 * 15
    assert int(one.position_ids.max()) == len(one.input_ids) - 1 - 3 * 15
    row = torch.tensor([len(one.input_ids) - 2])
    found = toy.vision_rows(collate([one]), [row])
    toy.model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = toy.model(**toy.arguments(collate([one])), output_attentions=True).attentions
    full = torch.stack(maps).mean((0, 2))[:, row][..., one.video_columns]
    assert torch.allclose(found, full, rtol=0, atol=1e-6)
    toy.add_lora(2, 4.0, 0.0, ["q_proj", "o_proj"])
    trained = [name for name, parameter in toy.model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 3 * 2 * 2
    assert all("language_model" in name and "_proj" in name for name in trained)


def test_an_image_is_refused_by_name_by_a_family_that_reads_none(dots, made_priors, tmp_path):
    """One among videos is left out where that is allowed; the videos are answered."""
    folder, lines, _ = made_priors
    image = lines[0].video.model_copy(update={"kind": "image", "name": "pictures/cat.png"})
    with pytest.raises(DataError, match=r"Dots reads no images: pictures/cat\.png") as error:
        open_reader(dots).lay_out(TALK, image, Viewing())
    assert "Qwen2.5-VL" in error.value.remedy
    assert "InternVL3" in error.value.remedy
    videos = question_set(tmp_path / "videos", [lines[0].model_copy(update={"video": image}), *lines[1:]])
    params, shared = {"viewing": made.VIEWING}, {"vlm": str(dots), "benchmark": "motionbench=./data"}

    def run(allowed):
        given = {**params, "max_failed": allowed}
        return run_step(BENCHMARK_EVAL, tmp_path, folder / "store", given, shared, {"videos": videos}, form="untouched")

    with pytest.raises(DataError, match=r"Dots reads no images: pictures/cat\.png"):
        run(0.0)
    found = published(run(0.5), "result", a.EvalResult)
    assert len(found.lines) == len(lines) - 1
    assert [failure.reason for failure in found.left_out] == ["Dots reads no images: pictures/cat.png"]


def test_it_runs_through_its_steps(dots, made_priors, tmp_path):
    folder, _, priors = made_priors
    store, viewing = folder / "store", {"viewing": made.VIEWING}
    shared = {"vlm": str(dots), "shard": "0/1"}
    mapped = run_step(VLM_ATTENTION, tmp_path, store, viewing, shared, {"priors": priors}, form="frozen")
    lines = [*published(mapped, "maps", a.VlmMaps).lines]
    assert all(line.coverage == 1.0 and line.distance > 0 for line in lines)

    shared = {"vlm": str(dots), "align_weight": 1.0, "seed": 0}
    tuned = run_step(SFT, tmp_path, store, TRAINING, shared, {"maps": [mapped["maps"]]})
    model = published(tuned, "model", a.TunedModel)
    rows = [json.loads(row) for row in Store(str(store)).read(model.log).splitlines()]
    assert all(row["grad_align"] > 0 for row in rows[1:])
    before, after = (
        load_vlm(place, torch.float32, "cpu").model.state_dict()
        for place in (dots, materialize(model.files, Store(str(store)), tmp_path / "tuned"))
    )
    assert not torch.equal(before["eye.weight"], after["eye.weight"])

    videos = question_set(tmp_path / "videos", lines)
    for form, scalars, inputs in (("untouched", {"vlm": str(dots)}, {}), ("tuned", {}, {"model": tuned["model"]})):
        scalars = {"benchmark": "motionbench=./data", **scalars}
        out = run_step(BENCHMARK_EVAL, tmp_path, store, viewing, scalars, {"videos": videos, **inputs}, form=form)
        replies = [*published(out, "result", a.EvalResult).lines]
        assert len(replies) == len(lines)
        total = next(len(line.video.times) for line in lines if line.video.id == replies[0].video.id)
        assert replies[0].frames == [total // 4 - 1, total // 2 - 1, 3 * total // 4 - 1, total - 1]


def question_set(folder, lines):
    """One question of MotionBench about each video."""
    found = []
    for line in lines:
        options = [Option(letter=letter, text=text) for letter, text in (("A", "left"), ("B", "right"))]
        named = {"id": sample_id(line.video.id, "Where?", options, "", []), "uid": line.sample.uid}
        text = {"question": "Where?", "is_instruction": False, "options": options, "response": "", "answer": "A"}
        sample = a.Sample(**named, **text, question_type="Motion Recognition", protocol="motionbench")
        found.append(a.VideoLine(video=line.video, samples=[sample]))
    record = StepRecord(version="1", params={}, scalars={})
    made = a.VideoDataset(kind="VideoDataset", provenance={"benchmark_import": record}, lines=found)
    return put_manifest(folder, made)
