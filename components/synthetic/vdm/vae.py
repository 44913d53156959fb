"""The small model's VAE, constructed, not trained: CogVideoX's class whose encoder computes a known linear code.

The code is exact up to rounding. That of 4 × 4 pixels and 4 frames (the first frame stands alone, as the class pools
time) is, of each colour, the mean m and the half differences h (left − right) and v (upper − lower), each times a gain:
over the training scenes m has about unit variance, h and v a quarter of it.
How the network becomes linear: residual blocks are silent (conv2 = 0); every feature travels as a pair ±x, so that
GroupNorm's mean is 0; two channels ±721 hold its deviation at 228; a bias of 12 keeps SiLU where it is the identity,
and the pair's difference cancels the bias.
No decoder of this class can invert the code: it upsamples by repetition and is then blind to where in a block a pixel
lies, so that a latent with equal h everywhere must come out flat. The decoder here is constructed, too: smooth
interpolation of the block means.

Legend: n = 4(F−1)+1 frames, F C y x latents, B batch, H W pixels. Run it in float32: the bias and the pairs need the
digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from jaxtyping import Float, UInt8
from torch import Tensor

from components.core.errors import ParameterError

SPATIAL, TEMPORAL, CHANNELS = 4, 4, 9
MEAN_GAIN, DIFFERENCE_GAIN = 5.0, 10.0
_WIDTH = 20  # channels: nine pairs and the two constants
_CONSTANT, _DEVIATION = 721.0, 228.0  # 721 · √(2/20) = 228.0002, and both are exact in half precision
_LIFT = 12.0
_TENT = (0.25, 0.5, 0.25)  # after repeating twice along an axis: linear interpolation between the centres of cells


def closed_form(frames: UInt8[np.ndarray, "n H W 3"]) -> Float[np.ndarray, "F C y x"]:
    """Return the code of a clip, as the VAE's encoder computes it (posterior mode), float32.

    Raises:
        ParameterError: frames that are not 4k+1 in number, or sides that are not multiples of 4.
    """
    count, height, width, _ = frames.shape
    if count % TEMPORAL != 1 or height % SPATIAL or width % SPATIAL:
        problem = f"{count} frames of {height} × {width} pixels do not make whole latents"
        raise ParameterError(problem, source="closed_form", remedy=f"give 4k+1 frames, sides multiples of {SPATIAL}")
    pixels = frames.reshape(count, height // 4, 2, 2, width // 4, 2, 2, 3).astype(np.float32)
    halves = pixels.mean(axis=(3, 6)) / 127.5 - 1
    later = halves[1:].reshape(-1, TEMPORAL, *halves.shape[1:]).mean(axis=1)
    pooled = np.concatenate([halves[:1], later])  # F y 2 x 2 3
    up, down, left, right = pooled[:, :, 0], pooled[:, :, 1], pooled[..., 0, :], pooled[..., 1, :]
    mean = pooled.mean(axis=(2, 4))
    horizontal, vertical = (left - right).mean(axis=2) / 2, (up - down).mean(axis=3) / 2
    code = np.concatenate([MEAN_GAIN * mean, DIFFERENCE_GAIN * horizontal, DIFFERENCE_GAIN * vertical], axis=-1)
    return np.ascontiguousarray(code.transpose(0, 3, 1, 2), dtype=np.float32)


def make_vae(sample_size: int) -> AutoencoderKLCogVideoX:
    """Return the VAE, float32, for square clips of `sample_size` pixels; any other size works as well."""
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(_WIDTH,) * 3,
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=1,
        temporal_compression_ratio=TEMPORAL,
        sample_height=sample_size,
        sample_width=sample_size,
        scaling_factor=1.0,
    )
    with torch.no_grad():
        for name, value in vae.named_parameters():
            value.fill_(1.0 if "norm" in name and name.endswith("weight") and value.ndim == 1 else 0.0)
        _construct_encoder(vae.encoder)
        _construct_decoder(vae.decoder)
    return vae.eval()


def _construct_encoder(encoder: Any) -> None:
    """RGB → means of 2 × 2 → the nine features as pairs, and the constants → the code."""
    for colour in range(3):
        encoder.conv_in.conv.weight[colour, colour, -1, 1, 1] = 1
        encoder.down_blocks[0].downsamplers[0].conv.weight[colour, colour, :2, :2] = 0.25
    # m, h, v over a block's quarters
    signs = torch.tensor([[[1.0, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]]]) / 4
    last = encoder.down_blocks[1].downsamplers[0].conv
    for feature in range(CHANNELS):
        last.weight[feature, feature % 3, :2, :2] = signs[feature // 3]
        last.weight[CHANNELS + feature, feature % 3, :2, :2] = -signs[feature // 3]
    _hold_constants(last.bias)
    encoder.norm_out.weight.fill_(_DEVIATION)
    encoder.norm_out.bias.fill_(_LIFT)
    for feature in range(CHANNELS):
        gain = MEAN_GAIN if feature < 3 else DIFFERENCE_GAIN
        encoder.conv_out.conv.weight[feature, feature, -1, 1, 1] = gain / 2
        encoder.conv_out.conv.weight[feature, CHANNELS + feature, -1, 1, 1] = -gain / 2
    encoder.conv_out.conv.bias[CHANNELS:] = -30.0  # the posterior's log variance: none


def _construct_decoder(decoder: Any) -> None:
    """Block means as pairs, and the constants → linear interpolation at each doubling → RGB."""
    tent = torch.outer(torch.tensor(_TENT), torch.tensor(_TENT))
    for colour in range(3):
        decoder.conv_in.conv.weight[colour, colour, -1, 1, 1] = 1 / MEAN_GAIN
        decoder.conv_in.conv.weight[CHANNELS + colour, colour, -1, 1, 1] = -1 / MEAN_GAIN
        for pair in (colour, CHANNELS + colour):
            for block in (0, 1):
                decoder.up_blocks[block].upsamplers[0].conv.weight[pair, pair] = tent
        decoder.conv_out.conv.weight[colour, colour, -1, 1, 1] = 0.5
        decoder.conv_out.conv.weight[colour, CHANNELS + colour, -1, 1, 1] = -0.5
    _hold_constants(decoder.up_blocks[1].upsamplers[0].conv.bias)
    decoder.norm_out.conv_y.conv.bias.fill_(_DEVIATION)
    decoder.norm_out.conv_b.conv.bias.fill_(_LIFT)


def _hold_constants(bias: Tensor) -> None:
    bias[2 * CHANNELS], bias[2 * CHANNELS + 1] = _CONSTANT, -_CONSTANT
