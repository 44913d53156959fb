"""What `keep: selected` stores: equal to what `keep: all` leads to, to whole maps, and to what `plan` predicts.

And the same of `granularity: layer_head`, against whole maps of each layer.
"""

from types import SimpleNamespace

import pyarrow.parquet
import pytest
import torch

from components.attention_capture.capture import CaptureSpec, capture_attention
from components.attention_capture.sample import capture_sample
from components.attention_capture.settings import Params
from components.core import artifacts as a
from components.core.errors import ParameterError
from components.core.text import Part
from components.ddim_inversion.ddim import invert
from components.head_selection.settings import Selection
from components.head_selection.step import STEP as HEADS
from components.models.registry import ensure_tiny
from components.models.video import load_vdm
from components.models.video.interface import EncodedText
from components.plan.cost import ClipCost, PlannedVideo, estimate
from components.plan.step import STEP as PLAN
from components.runtime.declaration import declared
from components.steps import EXTRACTION
from components.store.entries import Store
from components.store.tensors import unpack
from components.store.transfer import export_folder
from components.synthetic.scenes import write_set
from tests.attention_capture.oracle import chosen_heads, naive_attention, parts
from tests.attention_capture.test_memory import plain_loop
from tests.chain import SMALL, Chain
from tests.pages.reading import rows, tables
from tests.runner import changed, load_manifest, published, put_manifest, run_step

COUNT = 3
EXACT = 1e-3  # of a map's largest value
LAYERS, HEADS_EACH = 2, 4  # of the twin
WAYS = {"all": {}, "selected": {"keep": "selected"}}
WAYS["layer_head"] = {"keep": "selected", "granularity": "layer_head", "layer_rows": 8, "pictures": 1}


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


@pytest.mark.parametrize("granularity", ["head", "layer_head"])
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_the_kept_map_is_that_of_whole_maps_and_of_heads_chosen_by_loops(vdm, ratio, granularity):
    empty, clean = vdm.encode_text(""), torch.randn(1, 4, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    schedule = vdm.levels(5)
    trajectory = invert(lambda x, t: vdm.velocity(x, t, empty), clean, schedule).trajectory
    text, grid = "the red square moves left", vdm.patch_grid((4, 6, 8))
    with naive_attention(vdm.transformer, stream=1, memory=True) as oracle:
        plain_loop(vdm, trajectory, vdm.encode_text(text), 6.0, trajectory[-1], memory=True)
    every = {"rows": 10_000, "layer_rows": 10_000}
    settings = Params(keep="selected", granularity=granularity, selection={"head_ratio": ratio}, **every)
    found = capture_sample(vdm, trajectory[:, 0], text, [Part("response", 0, text)], settings, 5, 0, "unit")
    layers = [slice(None)] if granularity == "head" else [slice(k, None, LAYERS) for k in range(LAYERS)]
    whole = torch.cat([oracle.mean("own", calls) for calls in layers])  # heads of the layers one after the other
    t2v, _, _, v2v = parts(whole, [piece.index for piece in found.pieces], grid)
    best = chosen_heads(v2v, grid, ratio)
    assert len(best) == ratio * len(v2v) == ratio * HEADS_EACH * len(layers)
    assert found.heads == (best if granularity == "head" else [divmod(place, HEADS_EACH) for place in best])
    wanted = t2v[best].mean(0) * v2v.shape[-1]
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
    assert float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit] == pytest.approx(written, rel=0.05)
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


def test_heads_of_single_layers_are_named_by_both_from_the_record_to_the_pages(made, tmp_path):
    store, found = made
    chain, heads, priors = found["layer_head"]
    every = [(layer, head) for layer in range(LAYERS) for head in range(HEADS_EACH)]
    assert [row.id for row in heads.heads] == every
    for line in priors.lines:
        assert len(line.heads) == len(set(line.heads)) == LAYERS * HEADS_EACH // 2
        assert set(line.heads) <= set(every)
        assert unpack(store.read(line.statistics))["layers"].tolist() == [LAYERS]
    counted = {pair: sum(pair in line.heads for line in priors.lines) for pair in every}
    assert {row.id: row.chosen for row in priors.heads} == counted
    assert len({layer for line in priors.lines for layer, _ in line.heads}) == LAYERS
    assert sum("heads" in line.pictures for line in priors.lines) == 1
    for way, layers in (("all", None), ("layer_head", [[pair[0] for pair in line.heads] for line in priors.lines])):
        export_folder(store, found[way][2], tmp_path / way, "card")
        table = pyarrow.parquet.read_table(tmp_path / way / "samples.parquet").to_pydict()
        assert table["layers"] == (layers or [None] * COUNT)
        pairs = zip(table["layers"], table["heads"], strict=True)
        named = [heads if apart is None else list(zip(apart, heads, strict=True)) for apart, heads in pairs]
        assert named == [line.heads for line in found[way][2].lines]
    page, card = (chain.outputs[name][0][output].read_text() for name, output in PAGES)
    for row in heads.heads:
        assert f"head {row.layer}·{row.head}: DFC" in page
        assert rows(card)[f"{row.layer}·{row.head}"][-1] == f"{row.chosen} of {COUNT}"


PAGES = (("head_selection", "figure"), ("prior_set", "card"))


@pytest.mark.parametrize("given", [{"granularity": "layer_head"}, {"granularity": "layer_head", "keep": "all"}])
def test_single_layers_are_not_kept_whole(given, made, tmp_path):
    with pytest.raises(ParameterError, match="layer_head needs keep=selected"):
        planned(tmp_path, made[1]["all"][0], given)


@pytest.mark.parametrize("granularity", ["head", "layer_head"])
def test_each_granularity_has_its_own_number_of_rows(granularity):
    given = {"keep": "selected", "granularity": granularity}
    plain, idle = Params(**given), {"head": "layer_rows", "layer_head": "rows"}[granularity]
    other = next(name for name in ("rows", "layer_rows") if name != idle)
    assert plain.keyed() == Params(**given, **{idle: 9}).keyed() != Params(**given, **{other: 9}).keyed()
    assert plain.sampled_rows == {"head": 512, "layer_head": 64}[granularity]
    assert "layer_rows" not in Params().result()


def test_accumulators_of_all_layers_take_what_the_plan_predicts(vdm):
    clip, words, rows = ClipCost(vdm.sizes, 17, 64, 64), 9, 12
    spec = CaptureSpec(tuple(range(words)), (5, 4, 4), rows=rows, layers=LAYERS)
    with capture_attention(vdm.transformer, spec) as maps:
        vdm.velocity(torch.randn(2, 5, 4, 8, 8), 199, EncodedText.batch([vdm.encode_text("a"), vdm.encode_text("b")]))
    there = sum(tensor.nbytes for part in maps.per_layer for tensor in part._sums.values())
    assert clip.map_accumulators(rows, words, layers=LAYERS) == pytest.approx(there, rel=0.1)
    with pytest.raises(ParameterError, match="kept apart"):
        _ = maps.t2v


def test_the_plan_counts_the_accumulators_of_all_layers_and_one_map_in_main_memory(vdm):
    folder, words, rows = ensure_tiny("tiny-cogvideox"), 9, 8
    inversion = declared("ddim_inversion").params(height=64, width=64, num_frames=17, dtype="float32", pictures=0)
    shared, video = SimpleNamespace(num_steps=2, token_ratio=0.5), PlannedVideo("v", 17, [words])

    def peak(way):
        capture = Params(**{"rows": rows, **WAYS[way], "pictures": 0})
        (found,) = [one for one in estimate(folder, [video], inversion, capture, shared, None) if "capture" in one.step]
        return found.peak

    clip = ClipCost(vdm.sizes, 17, 64, 64)
    every, means, layers = map(peak, WAYS)
    assert every.device == means.device
    further = clip.map_accumulators(rows, words, layers=LAYERS) - clip.map_accumulators(rows, words)
    assert layers.device - means.device == further > 0
    assert every.main - means.main == 3 * (HEADS_EACH - 1) * words * clip.tokens * 2
    assert layers.main == means.main
