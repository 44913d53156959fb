"""Ensembles against loops over cells and characters, and end to end with two families of video models."""

import time

import numpy as np
import pytest
import torch

from components.core import artifacts as a
from components.core.errors import DataError, ParameterError, UnitsFailed
from components.core.records import Failure, Grid, Piece, sha256
from components.plan.step import STEP as PLAN
from components.runtime.parameters import Shard
from components.steps import EXTRACTION
from components.store.check import products
from components.store.entries import Store
from components.store.gc import DAY, Collector
from components.store.tensors import unpack
from components.synthetic.scenes import write_set
from components.token_selection.ensemble import Member, average, shared_words
from components.token_selection.settings import Params
from tests.chain import SMALL, Chain
from tests.pages.reading import tables
from tests.runner import changed, load_manifest, published, run_step

COUNT = 3
HALF = 2.0**-10  # of a value: it is rounded to fp16 on the way in and on the way out

# By loops -------------------------------------------------------------------------------------------------------------


def centres(grid):
    top, bottom, left, right = grid.box
    rows = [top + (bottom - top) * (k + 0.5) / grid.rows for k in range(grid.rows)]
    cols = [left + (right - left) * (k + 0.5) / grid.cols for k in range(grid.cols)]
    return [(start + end) / 2 for start, end in grid.times], rows, cols


def ends(grid):
    top, bottom, left, right = grid.box
    return (grid.times[0][0], grid.times[-1][1]), (top, bottom), (left, right)


def at(map_FHW, grid, point):
    """A map's value at (time, row, column): linear between the cells' centres, beyond them as at the last one."""
    for place, known in zip(point, centres(grid), strict=True):
        map_FHW = np.apply_along_axis(lambda line, place=place, known=known: np.interp(place, known, line), 0, map_FHW)
    return float(map_FHW)


def naive(first, others):
    """Each word and cell of the first member: the mean over the members that have both."""
    found = np.zeros(first.maps_UFyx.shape)
    for t, piece in enumerate(first.pieces):
        for f, time_ in enumerate(centres(first.grid)[0]):
            for y, row in enumerate(centres(first.grid)[1]):
                for x, col in enumerate(centres(first.grid)[2]):
                    values = [float(first.maps_UFyx[t, f, y, x])]
                    for other in others:
                        inside = all(
                            low - 1e-9 <= place <= high + 1e-9
                            for place, (low, high) in zip((time_, row, col), ends(other.grid), strict=True)
                        )
                        own = [
                            (other.maps_UFyx[u].double().numpy(), len(_letters(piece) & _letters(its)))
                            for u, its in enumerate(other.pieces)
                        ]
                        letters = sum(count for _, count in own)
                        if inside and letters:
                            parts = [
                                count * at(map_FHW, other.grid, (time_, row, col)) for map_FHW, count in own if count
                            ]
                            values.append(sum(parts) / letters)
                    found[t, f, y, x] = np.mean(values)
    return found


def _letters(piece):
    return {(piece.field, place) for place in range(piece.start, piece.end)}


def member(spans, times, rows, cols, box=(0.0, 1.0, 0.0, 1.0), seed=0, field="response"):
    pieces = [
        Piece(index=k, token=f"{start}", field=field, start=start, end=end) for k, (start, end) in enumerate(spans)
    ]
    grid = Grid(times=times, rows=rows, cols=cols, box=box)
    maps = torch.rand(len(spans), *grid.shape, generator=torch.Generator().manual_seed(seed)) * 3
    return Member(maps, pieces, grid)


QUARTERS = [(k / 4, (k + 1) / 4) for k in range(4)]
FIRST = member([(0, 5), (6, 10), (11, 12)], QUARTERS, 4, 6)
OTHERS = {
    "coarser": member([(0, 5), (6, 10), (11, 12)], [(0.0, 0.4), (0.4, 1.0)], 2, 3, seed=1),
    "cropped": member([(0, 5), (6, 10), (11, 12)], QUARTERS, 4, 3, (0.0, 1.0, 0.25, 0.75), seed=2),
    "shorter": member([(0, 5), (6, 10), (11, 12)], [(0.5, 1.0)], 2, 3, seed=3),
    "pieces": member([(0, 3), (3, 5), (6, 8), (9, 10)], QUARTERS, 4, 6, seed=4),
    "joined": member([(0, 10)], [(0.0, 1.0)], 1, 1, seed=5),
}


@pytest.mark.parametrize(
    "names", [["coarser"], ["cropped"], ["shorter"], ["pieces"], ["joined"], [*OTHERS]], ids="-".join
)
def test_an_average_is_that_of_loops_over_cells_and_characters(names):
    others = [OTHERS[name] for name in names]
    found = average(FIRST, others)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), naive(FIRST, others), rtol=1e-5)
    if "pieces" in names or "joined" in names:  # a word that the other lacks is the first one's own
        alone = [name for name in names if name in ("pieces", "joined")]
        assert len(alone) < len(names) or torch.equal(found[2], FIRST.maps_UFyx[2])


def test_an_ensemble_of_one_is_that_one_and_of_a_model_with_itself_too():
    assert torch.equal(average(FIRST, []), FIRST.maps_UFyx)
    assert torch.equal(average(FIRST, [FIRST]), FIRST.maps_UFyx)


def test_pieces_of_one_character_meet_in_their_order():
    """Bytes of a character share its span: with one tokenizer each is itself."""
    spans = [(0, 1), (0, 1), (1, 3)]
    one = member(spans, QUARTERS, 2, 2)
    weights, found = shared_words(one.pieces, one.pieces)
    assert torch.equal(weights, torch.eye(3))
    assert bool(found.all())
    weights, _ = shared_words(one.pieces, one.pieces[:2])
    assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]


def test_models_that_share_nothing_are_refused():
    for other, what in (
        (member([(20, 22)], QUARTERS, 4, 6), "words"),
        (member([(0, 5)], QUARTERS, 4, 6, field="question"), "words"),
        (member([(0, 5)], [(5.0, 6.0)], 4, 6), "part of the clip"),
    ):
        with pytest.raises(DataError, match=f"no {what} in common") as caught:
            average(FIRST, [other], "sample x")
        assert caught.value.source == "sample x"


@pytest.mark.parametrize("given", [["x"], ["sha256:" + "a" * 63], ["a" * 64, "sha256:" + "a" * 64]])
def test_what_names_no_selection_or_one_twice_is_refused(given):
    with pytest.raises(ValueError, match="ensemble_with"):
        Params(ensemble_with=given)


def test_an_ensemble_of_one_has_the_keys_and_the_provenance_that_it_had():
    assert Params().keyed() == Params().result() == {"unit": "token", "mtti": True}
    named = Params(ensemble_with=["a" * 64])
    assert named.keyed() == Params().keyed()  # a key takes the sample's lines, not the digest
    assert named.result()["ensemble_with"] == ["sha256:" + "a" * 64]


# End to end -----------------------------------------------------------------------------------------------------------


OTHER = "tiny-hunyuanvideo"  # of another family
OTHERS_INVERSION = {"height": 48, "num_frames": 9}
OTHERS_CAPTURE = {"keep": "selected", "granularity": "layer_head", "layer_rows": 8}


class World:
    """Two video models' extractions of one source on one store; the second one ends with its head selection.

    It keeps means over heads of single layers.
    """

    def __init__(self, tmp):
        self.tmp, self.path = tmp, tmp / "store"
        write_set(tmp / "scenes", preset="scenes", count=COUNT, seed=8)
        self.first = self.chain()
        self.alone = load_manifest(self.first.priors(), a.PriorSet)
        self.other = self.chain(OTHER, OTHERS_INVERSION, OTHERS_CAPTURE)
        self.digest = self.selected(self.other.task("head_selection", {"maps": self.other.capture()}))
        self.store = Store(str(self.path))

    def chain(self, vdm="tiny-cogvideox", inversion=None, capture=None, **tokens):
        params = {"ddim_inversion": inversion or {}, "attention_capture": capture or {}, "token_selection": tokens}
        return Chain(self.tmp, self.path, self.tmp / "scenes", given=params, vdm=vdm)

    @staticmethod
    def selected(outputs):
        return "sha256:" + sha256((outputs["heads"] / "manifest.json").read_bytes())

    def priors(self, *digests):
        """The priors of an ensemble, and how many of them were computed; nothing before them is."""
        chain = self.chain(ensemble_with=[*digests])
        found = load_manifest(chain.priors(), a.PriorSet)
        assert {name for name, count in chain.counts.items() if count} <= {"token_selection"}
        return found, chain.counts["token_selection"]

    def member(self, line):
        maps = unpack(self.store.read(line.maps))["t2v"].float()
        maps = maps[line.heads].mean(0) if maps.ndim == 3 else maps
        return Member(maps.reshape(-1, *line.grid.shape), self.store.pieces(line), line.grid)

    def prior(self, line):
        return unpack(self.store.read(line.prior))["prior"].double()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("ensemble"))


def test_priors_of_two_models_are_those_of_their_average(world):
    found, computed = world.priors(world.digest)
    assert computed == COUNT
    own = published(world.first.outputs["head_selection"][0], "heads", a.HeadSelection)
    lines = zip(found.lines, own.lines, world.store.manifest(world.digest, a.HeadSelection).lines, strict=True)
    moved = 0
    for line, first, other in lines:
        assert first.grid.shape != other.grid.shape
        assert world.store.pieces(first) != world.store.pieces(other)
        assert all(isinstance(head, tuple) for head in other.heads)
        wanted = naive(world.member(first), [world.member(other)])
        pieces = world.store.pieces(line)
        t2f = wanted.mean((2, 3))
        scores = t2f.mean(1) + np.abs(np.diff(t2f, axis=1)).mean(1)
        np.testing.assert_allclose([piece.score for piece in pieces], scores, rtol=1e-4)
        kept = [piece.selected for piece in pieces]
        assert sum(kept) == -(-len(kept) // 2)
        assert min(scores[kept]) >= max(scores[np.logical_not(kept)])
        np.testing.assert_allclose(world.prior(line).numpy(), wanted[kept], rtol=HALF, atol=1e-4)
        moved += float(np.abs(wanted - world.member(first).maps_UFyx.numpy()).max()) > 0.01
    assert moved == COUNT
    record = found.provenance["token_selection"]
    assert record.params["ensemble_with"] == [world.digest]
    assert record.models["vdm of ensemble_with 1"].name == OTHER


def test_a_model_with_itself_gives_its_own_priors_and_nobody_named_computes_nothing(world):
    again, computed = world.priors()
    assert (again.digest, computed) == (world.alone.digest, 0)
    twice, computed = world.priors(world.selected(world.first.outputs["head_selection"][0]))
    assert computed == COUNT
    for line, alone in zip(twice.lines, world.alone.lines, strict=True):
        torch.testing.assert_close(world.prior(line), world.prior(alone), rtol=HALF, atol=0)
        kept = [[piece.selected for piece in world.store.pieces(one)] for one in (line, alone)]
        assert kept[0] == kept[1]


def test_a_key_takes_the_samples_own_lines_and_not_the_digest(world):
    world.priors(world.digest)
    selection = world.store.manifest(world.digest, a.HeadSelection)
    lost = [Failure(unit="another", task="t", reason="r")]
    renamed = world.store.publish(changed(selection, left_out=lost))
    assert f"sha256:{renamed}" != world.digest
    assert world.priors(renamed)[1] == 0
    heads = world.store.publish(
        changed(selection, lines=[line.model_copy(update={"heads": [(0, 0)]}) for line in selection.lines])
    )
    assert world.priors(heads)[1] == COUNT


def planned(world, *digests):
    params = {name: SMALL.get(name, {}) for name in EXTRACTION}
    params["token_selection"] = {"ensemble_with": [*digests]}
    shared = {"source": str(world.tmp / "scenes"), "vdm": "tiny-cogvideox", "num_steps": 2}
    given = {"shared": {**shared, "shards": world.first.shards}, "form": "motion_priors", "step_params": params}
    page = run_step(PLAN, world.tmp, world.path, **given)["plan"].read_text()
    return page, {row[0]: row[1:3] for row in tables(page)[0]}["token_selection"]


def test_the_plan_knows_what_of_an_ensemble_is_remembered(world):
    world.priors(world.digest)
    page, counts = planned(world, world.digest)
    assert counts == [str(COUNT), "0"]
    assert f"`{world.digest}`: {OTHER}, {COUNT} samples" in page.replace("\\", "")
    assert "will be left out" not in page
    selection = world.store.manifest(world.digest, a.HeadSelection)
    twice = world.store.publish(changed(selection, left_out=[Failure(unit="one more", task="t", reason="r")]))
    assert planned(world, world.digest, twice)[1] == ["0", str(COUNT)]
    assert "Ensemble" not in planned(world)[0]


def test_a_sample_that_another_model_has_not_is_left_out_with_the_reason(world):
    selection = world.store.manifest(world.digest, a.HeadSelection)
    gone, *rest = selection.lines
    fewer = world.store.publish(changed(selection, lines=rest))
    reason = f"the sample is not in the head selection sha256:{fewer}"
    heads = {"heads": world.first.outputs["head_selection"][0]["heads"]}
    (shard,) = [one for one in world.first.shards if Shard.parse(one).holds(gone.video.id)]
    with pytest.raises(UnitsFailed) as caught:
        world.chain(ensemble_with=[fewer]).task("token_selection", heads, shard=shard)
    assert reason in str(caught.value)
    made = world.chain(ensemble_with=[fewer]).task("token_selection", heads, shard=shard, max_failed=1.0)
    (lost,) = published(made, "prior", a.MotionPrior).left_out
    assert (lost.unit.split()[0], lost.reason) == (gone.sample.id, reason)
    page, _ = planned(world, fewer)
    assert f"1 sample will be left out: not in `sha256:{fewer}`" in page.replace("\\", "")


def test_other_digests_end_the_plan_and_the_step(world):
    heads = {"heads": world.first.outputs["head_selection"][0]["heads"]}
    for digest, match in (("0" * 64, "no manifest"), (world.alone.digest, "wrong artifact kind 'PriorSet'")):
        with pytest.raises(DataError, match=match):
            planned(world, digest)
        with pytest.raises(DataError, match=match):
            world.chain(ensemble_with=[digest]).task("token_selection", heads, shard="0/2")
    with pytest.raises(ParameterError, match="ensemble_with"):
        planned(world, "none")


def test_garbage_collection_keeps_what_a_kept_ensemble_was_made_of(world, tmp_path):
    """And lets it go with the prior set that names it."""
    found, _ = world.priors(world.digest)
    selection = world.store.manifest(world.digest, a.HeadSelection)
    theirs = {f"manifests/{selection.digest}.json"}
    for line in selection.lines:
        theirs |= {line.maps.path, line.statistics.path, f"attention_capture/{line.key}/entry.json"}

    def victims(*dropped):
        later = Collector(world.store, 1, frozenset(dropped), now=lambda: time.time() + 9 * DAY)
        return {item.path for item in later.plan().all()}

    named = [found.digest]
    assert not theirs & victims()
    others = {one.digest for one in ensembles(world.store)} - {found.digest}
    assert not theirs & victims(*others)
    assert theirs <= victims(*others, *named)


def ensembles(store):
    return [
        one for one in products(store, ["PriorSet"]) if one.provenance["token_selection"].params.get("ensemble_with")
    ]
