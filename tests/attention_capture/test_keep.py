"""What `keep: selected` stores: equal to what `keep: all` leads to, to whole maps, and to what `plan` predicts."""

import pytest
import torch

from components.attention_capture.sample import capture_sample
from components.attention_capture.settings import Params
from components.core import artifacts as a
from components.core.errors import ParameterError
from components.core.text import Part
from components.ddim_inversion.ddim import invert, levels
from components.head_selection.settings import Selection
from components.head_selection.step import STEP as HEADS
from components.models.registry import ensure_tiny
from components.models.video import load_vdm
from components.plan.step import STEP as PLAN
from components.steps import EXTRACTION
from components.store.entries import Store
from components.store.tensors import unpack
from components.synthetic.scenes import write_set
from tests.attention_capture.oracle import chosen_heads, naive_attention, parts
from tests.attention_capture.test_memory import plain_loop
from tests.chain import SMALL, Chain
from tests.pages.reading import tables
from tests.runner import changed, load_manifest, published, put_manifest, run_step

COUNT = 3
EXACT = 1e-3  # of a map's largest value
WAYS = {"all": {}, "selected": {"keep": "selected"}}


@pytest.fixture(scope="module")
def vdm():
    return load_vdm(ensure_tiny("tiny-cogvideox"), "float32", "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The extraction of one set in every way: the chain, the heads' lines and the priors'."""
    tmp = tmp_path_factory.mktemp("keep")
    write_set(tmp / "scenes", preset="scenes", count=COUNT, seed=8)
    found = {}
    for name, params in WAYS.items():
        chain = Chain(tmp, tmp / "store", tmp / "scenes", given={"attention_capture": params})
        priors = chain.priors()
        heads = published(chain.outputs["head_selection"][0], "heads", a.HeadSelection)
        found[name] = chain, heads, load_manifest(priors, a.PriorSet)
    return Store(str(tmp / "store")), found


def test_a_selected_map_is_the_mean_that_all_maps_lead_to(made):
    store, found = made
    every, kept = (found[name][1].lines for name in ("all", "selected"))
    for one, other in zip(every, kept, strict=True):
        assert (one.sample.id, one.heads) == (other.sample.id, other.heads)
        wanted = unpack(store.read(one.maps))["t2v"][one.heads].double().mean(0)
        density = unpack(store.read(other.maps))["t2v"]
        assert density.dtype == torch.float16
        assert float((density - wanted).abs().max()) <= EXACT * float(wanted.max())
    assert {len(line.heads) for line in kept} == {2}  # of four
    assert len({tuple(line.heads) for line in kept}) > 1  # else a constant choice would pass


def test_priors_of_selected_maps_are_those_of_all(made):
    store, found = made
    for one, other in zip(found["all"][2].lines, found["selected"][2].lines, strict=True):
        kept, others = ([piece.selected for piece in store.pieces(line)] for line in (one, other))
        assert kept == others
        wanted, prior = (unpack(store.read(line.prior))["prior"].double() for line in (one, other))
        assert float((prior - wanted).abs().max()) <= EXACT * float(wanted.max())
        assert other.confidence.value == pytest.approx(one.confidence.value, rel=EXACT)
    assert found["all"][2].heads == found["selected"][2].heads


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_the_kept_map_is_that_of_whole_maps_and_of_heads_chosen_by_loops(vdm, ratio):
    empty, clean = vdm.encode_text(""), torch.randn(1, 4, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    schedule = levels(vdm.alphas_cumprod, 5)
    trajectory = invert(lambda x, t: vdm.velocity(x, t, empty), clean, schedule).trajectory
    text, grid = "the red square moves left", vdm.patch_grid((4, 6, 8))
    with naive_attention(vdm.transformer, stream=1, memory=True) as oracle:
        plain_loop(vdm, trajectory, vdm.encode_text(text), 6.0, trajectory[-1], memory=True)
    settings = Params(keep="selected", rows=10_000, selection={"head_ratio": ratio})
    found = capture_sample(vdm, trajectory[:, 0], text, [Part("response", 0, text)], settings, 5, 0, "unit")
    t2v, _, _, v2v = parts(oracle.mean("own"), [piece.index for piece in found.pieces], grid)
    assert found.heads == chosen_heads(v2v, grid, ratio)
    wanted = t2v[found.heads].mean(0) * v2v.shape[-1]
    assert float((found.density - wanted).abs().max()) <= EXACT * float(wanted.max())


def planned(tmp, chain, capture=None, heads=None, **shared):
    """The plan's page of an extraction with the chain's parameters and others."""
    params = {name: {**SMALL.get(name, {}), **chain.given.get(name, {})} for name in EXTRACTION}
    params["attention_capture"] |= capture or {}
    params["head_selection"] |= heads or {}
    given = {name: value for name, value in {**chain.shared, **shared}.items() if name != "shards"}
    given["shards"] = chain.shards
    made = run_step(PLAN, tmp, chain.store, shared=given, form="motion_priors", step_params=params)
    return made["plan"].read_text()


def steps(page):
    """The rows of the plan's first table by step."""
    return {row[0]: row[1:] for row in tables(page)[0]}


@pytest.mark.parametrize("way", WAYS)
def test_the_plan_predicts_the_bytes_that_were_written(made, tmp_path, way):
    _, found = made
    chain, heads, _ = found[way]
    files = [ref for line in heads.lines for ref in (line.maps, line.statistics, line.pieces)]
    written = sum(ref.bytes for ref in files)
    remembered, to_compute, _, predicted = steps(page := planned(tmp_path, chain))["attention_capture"]
    assert (remembered, to_compute) == (str(COUNT), "0")
    number, unit = predicted.split()
    assert float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit] == pytest.approx(written, rel=0.1)
    assert steps(page)["token_selection"][:2] == [str(COUNT), "0"]


def test_another_choice_is_another_capture_only_where_it_decides(made, tmp_path):
    _, found = made
    for way, kept in (("all", "3"), ("selected", "0")):
        page = planned(tmp_path, found[way][0], {"selection": {"head_ratio": 0.25}}, head_ratio=0.25)
        assert steps(page)["attention_capture"][0] == kept
    other = Selection(head_ratio=0.25)
    assert Params(selection=other).keyed() == Params().keyed()
    assert Params(selection=other).result() == Params().result()
    assert "selection" not in Params().result()
    assert Params(keep="selected", selection=other).keyed()["selection"]["head_ratio"] == 0.25


WRONG = [
    ({}, {"head_ratio": 0.25}, "head_ratio is 0.5 there and 0.25 here", r'"head_ratio":0.25'),
    ({"tau": "mask"}, {}, "tau is 'map' there and 'mask' here", r'"tau":"mask"'),
    ({"mhs": False}, {}, "mhs is True there and False here", r'"mhs":false'),
    ({"scope": "dataset"}, {}, "scope=dataset needs the maps of all heads", "keep=all"),
]


@pytest.mark.parametrize(("params", "shared", "problem", "remedy"), WRONG)
def test_maps_of_another_choice_are_refused_by_the_plan_and_by_the_step(
    made, tmp_path, params, shared, problem, remedy
):
    _, found = made
    chain = found["selected"][0]
    maps = [outputs["maps"] for outputs in maps_of(chain)]
    with pytest.raises(ParameterError, match=problem) as caught:
        run_step(HEADS, tmp_path, chain.store, params, shared, {"maps": maps})
    assert remedy in caught.value.remedy
    with pytest.raises(ParameterError, match=problem):
        planned(tmp_path, chain, heads=params, **shared)
    run_step(
        HEADS,
        tmp_path,
        chain.store,
        params,
        shared,
        {"maps": [outputs["maps"] for outputs in maps_of(found["all"][0])]},
    )


def maps_of(chain):
    return chain.outputs["attention_capture"]


def test_a_recorded_choice_is_passed_on_whatever_the_statistics_say(made, tmp_path):
    """Another machine's rounding may turn a tie: what the map is the mean of holds."""
    _, found = made
    chain = found["selected"][0]
    folders = []
    for k, outputs in enumerate(maps_of(chain)):
        part = published(outputs, "maps", a.AttentionMaps)
        lines = [line.model_copy(update={"heads": [1, 3]}) for line in part.lines]
        folders.append(put_manifest(tmp_path / str(k), changed(part, lines=lines), chain.store))
    heads = published(run_step(HEADS, tmp_path, chain.store, {}, {}, {"maps": folders}), "heads", a.HeadSelection)
    assert {tuple(line.heads) for line in heads.lines} == {(1, 3)}
    assert [row.chosen for row in heads.heads] == [0, COUNT, 0, COUNT]
