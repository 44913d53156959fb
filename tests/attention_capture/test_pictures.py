"""The picture of heads: pooled maps above, exact blocks below, each in its place and brightness."""

import io

import numpy as np
import torch
from PIL import Image

from components.attention_capture.maps import HeadReductions
from components.attention_capture.pictures import _BAR, head_thumbnails
from components.attention_capture.sample import Captured
from components.head_selection.scores import head_statistics

HEADS, PLACES, FRAMES, SIDE = 4, 6, 5, 30


def captured(blocks):
    frames = blocks.shape[-1]
    diag = torch.rand(HEADS, PLACES, frames, frames, generator=torch.Generator().manual_seed(0))
    ones, tau = torch.ones(HEADS, dtype=torch.float64), torch.full((HEADS,), 0.5, dtype=torch.float64)
    reductions = HeadReductions(
        sum_m=diag.double().square().sum((1, 2, 3)),
        sum_not_m=ones,
        sum_not_m_error=0 * ones,
        tau_map=tau,
        tau_mask=tau,
        diag_hPFF=diag,
        thumbnail_hnn=torch.ones(HEADS, SIDE, SIDE),
        places=(0, 3),
        block_hBFF=blocks,
    )
    statistics = head_statistics(diag, tau, ones, 0 * ones, "test")
    density = torch.ones(HEADS, 1, PLACES * frames)
    return Captured([], 0, density, statistics, reductions, torch.zeros(1, frames, 4, 2, 3))


def test_blocks_stand_below_the_map_and_show_which_frame_is_looked_at():
    """A head whose every frame looks at frame 1 in the first block and at its own frame in the second."""
    blocks = torch.zeros(HEADS, 2, FRAMES, FRAMES)
    blocks[:, 0, :, 1] = 2.0
    blocks[:, 1] = torch.eye(FRAMES)
    made = captured(blocks)
    picture = np.asarray(Image.open(io.BytesIO(head_thumbnails(made))))[..., 0]
    width = picture.shape[1] // HEADS
    scale = (width - 2) // (2 * FRAMES)
    below = picture[_BAR + width + 1 :, 1 : 1 + 2 * FRAMES * scale]
    cells = below[scale // 2 : FRAMES * scale : scale, scale // 2 :: scale]
    expected = np.concatenate([np.eye(FRAMES)[[1] * FRAMES] * 255, np.eye(FRAMES) * 128], axis=1)
    np.testing.assert_array_equal(cells, expected)
    assert (
        picture[_BAR + 1 : _BAR + width - 1, 1 : width - 1] == 255
    ).all()  # a flat map is white: each picture has its own scale


def test_blocks_wider_than_the_map_fit():
    head_thumbnails(captured(torch.ones(HEADS, 2, 150, 150)))
