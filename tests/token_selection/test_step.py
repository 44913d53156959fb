"""What the step keeps of a prior: its density in half precision, which maps in fp16 cannot overflow."""

import numpy as np
import pytest
import torch

from components.core import artifacts as a
from components.core.records import StepRecord
from components.pages.samples import Stored
from components.store.entries import Store
from components.store.tensors import unpack
from components.token_selection.step import STEP
from tests.runner import published, put_manifest, run_step
from tests.vlm_attention import made

HEADS, CHOSEN, LARGEST = 6, [0, 2, 5], 65504.0  # the largest number of fp16


@pytest.fixture
def prior(made_priors, tmp_path):
    """The stored prior of a sample whose captured maps are given, as float64 [h, T, S]; every piece is kept."""
    folder, (line, *_), _ = made_priors
    store = Store(str(folder / "store"))

    def make(maps):
        ref = made.put_work(store, "attention", "t2v", t2v=torch.from_numpy(maps).half())
        carried = {name: value for name, value in line if name in a.HeadLine.model_fields}
        pieces = [a.Piece(**{name: getattr(piece, name) for name in a.Piece.model_fields}) for piece in line.pieces]
        one = a.HeadLine(**carried | {"pieces": pieces, "maps": ref, "heads": CHOSEN, "key": ref.sha256[:32]})
        head = a.HeadRow(head=0, dfc=1, dfc_stderr=0, tcs=1, dsr=1, z=(0, 0, 0), score=0, chosen=1, samples=1)
        record = StepRecord(version="2", params={}, scalars={})
        heads = a.HeadSelection(
            kind="HeadSelection", provenance={"head_selection": record}, lines=[one], heads=[head], saturation={}
        )
        given = {"heads": put_manifest(tmp_path / "heads", heads, folder / "store")}
        scalars = {"shard": "0/1", "token_ratio": 1.0}
        (found,) = published(
            run_step(STEP, tmp_path, folder / "store", {}, scalars, given), "prior", a.MotionPrior
        ).lines
        assert Stored(store).prior(found).dtype == np.float32  # what pages compute with
        return unpack(store.read(found.prior))["prior"]

    return make, len(line.pieces), line.grid.shape


def test_a_prior_is_the_heads_mean_in_half_precision(prior):
    make, pieces, grid = prior
    density = np.random.default_rng(3).lognormal(0, 2, (HEADS, pieces, int(np.prod(grid))))
    density = (density / density.mean(-1, keepdims=True)).astype(np.float16).astype(np.float64)
    found = make(density)
    assert (found.dtype, found.shape) == (torch.float16, (pieces, *grid))
    expected = density[CHOSEN].mean(0).reshape(found.shape)
    half = np.maximum(expected * 2.0**-11, 2.0**-25) * (1 + 1e-4)  # of the distance between two numbers of fp16
    assert (np.abs(found.double().numpy() - expected) <= half).all()


def test_the_most_concentrated_map_fits(prior):
    make, pieces, grid = prior
    density = np.zeros((HEADS, pieces, int(np.prod(grid))))
    density[..., 7] = LARGEST
    assert float(make(density).max()) == LARGEST
