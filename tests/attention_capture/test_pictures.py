"""The picture of heads: pooled maps above, exact blocks below, each in its place and brightness."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from components.attention_capture.pictures import _GAP, _LABEL, _TILE, _tiles, head_thumbnails
from components.attention_capture.sample import Captured
from components.head_selection.scores import head_statistics
from components.pages.figures import TABLE

HEADS, PLACES, FRAMES, SIDE = 4, 6, 5, 30


def captured(blocks):
    frames = blocks.shape[-1]
    diag = torch.rand(HEADS, PLACES, frames, frames, generator=torch.Generator().manual_seed(0))
    ones, tau = torch.ones(HEADS, dtype=torch.float64), torch.full((HEADS,), 0.5, dtype=torch.float64)
    pooled = torch.ones(HEADS, SIDE, SIDE)
    statistics = head_statistics(diag, tau, ones, 0 * ones, "test")
    density = torch.ones(HEADS, 1, PLACES * frames)
    return Captured([], [], 0, density, None, statistics, pooled, blocks, torch.zeros(1, frames, 4, 2, 3))


def test_blocks_stand_below_the_map_and_show_which_frame_is_looked_at():
    """A head whose every frame looks at frame 1 in the first block and at its own frame in the second."""
    blocks = torch.zeros(HEADS, 2, FRAMES, FRAMES)
    blocks[:, 0, :, 1] = 2.0
    blocks[:, 1] = torch.eye(FRAMES)
    made = captured(blocks)
    picture = np.asarray(Image.open(io.BytesIO(head_thumbnails(made))))
    assert picture.shape == (_LABEL + 2 * _GAP + _TILE + _TILE // 2, HEADS * (_TILE + _GAP) - _GAP, 4)
    below, centres = picture[_LABEL + 2 * _GAP + _TILE :], (np.arange(2 * FRAMES) + 0.5) * _TILE / (2 * FRAMES)
    cells = below[np.ix_(centres[:FRAMES].astype(int), centres.astype(int))]
    expected = np.concatenate([np.eye(FRAMES)[[1] * FRAMES], 0.5 * np.eye(FRAMES)], axis=1)
    np.testing.assert_array_equal(cells[..., :3], np.round(TABLE)[(255 * expected).astype(int)])
    above = picture[_LABEL + _GAP : _LABEL + _GAP + _TILE, :_TILE]
    assert (above[..., :3] == np.round(TABLE)[255]).all()  # a flat map is bright: each map has its own scale
    assert (picture[_LABEL : _LABEL + _GAP, :, 3] == 0).all()  # transparent between the parts


def test_blocks_wider_than_the_map_fit():
    head_thumbnails(captured(torch.ones(HEADS, 2, 150, 150)))


@pytest.mark.parametrize(("size", "tile"), [((40, 60), (120, 80)), ((480, 720), (154, 103)), ((64, 64), (128, 128))])
def test_frames_of_every_size_become_tiles(size, tile):
    frames = np.arange(9, dtype=np.uint8).repeat(size[0] * size[1] * 3).reshape(9, *size, 3)
    tiles = _tiles(frames)
    assert {picture.size for picture in tiles} == {tile}
    assert [picture.getpixel((0, 0))[0] for picture in tiles] == [0, 2, 3, 5, 6, 8]
