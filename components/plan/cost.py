"""What the video model's part of a run will cost: FLOPs, GPU-hours, bytes and peak memory, from the model's config and the data.

Linear layers of one forward: 2·L·layers·12·d²; attention: 4·L²·d·layers, L = T + S (checked against a FLOP counter on
the real shapes). A reconstruction step with cross-stream memory runs four samples; two of them attend to twice the
keys.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from components.core.errors import ParameterError

A100_FLOPS = 184e12  # bf16, what the published "180 s for 50 guided steps" implies for CogVideoX-5B on one A100


@dataclass(frozen=True)
class VideoModel:
    """The sizes of a CogVideoX transformer that cost depends on."""

    layers: int
    heads: int
    width: int
    text_tokens: int
    channels: int
    patch: int
    patch_t: int
    spatial: int
    temporal: int

    @classmethod
    def read(cls, folder: Path) -> VideoModel:
        """From the configs of a diffusers folder.

        Raises:
            ParameterError: a config is missing.
        """
        try:
            net = json.loads((folder / "transformer" / "config.json").read_text())
            vae = json.loads((folder / "vae" / "config.json").read_text())
        except FileNotFoundError as error:
            raise ParameterError(
                f"no {error.filename}", source=f"vdm={folder.name}", remedy="give a CogVideoX folder of diffusers"
            ) from error
        return cls(
            layers=net["num_layers"],
            heads=net["num_attention_heads"],
            width=net["num_attention_heads"] * net["attention_head_dim"],
            text_tokens=net["max_text_seq_length"],
            channels=net["in_channels"],
            patch=net["patch_size"],
            patch_t=net.get("patch_size_t") or 1,
            spatial=2 ** (len(vae["block_out_channels"]) - 1),
            temporal=int(vae["temporal_compression_ratio"]),
        )

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip, padded to the temporal patch."""
        count = (frames - 1) // self.temporal + 1
        return count + (-count) % self.patch_t

    def tokens(self, frames: int, height: int, width: int) -> int:
        """S, the vision tokens."""
        cell = self.spatial * self.patch
        return self.latent_frames(frames) // self.patch_t * (height // cell) * (width // cell)

    def _forward(self, tokens: int, keys: int) -> float:
        length = tokens + self.text_tokens
        return 2 * length * self.layers * 12 * self.width**2 + 4 * length * keys * self.width * self.layers

    def inversion(self, frames: int, height: int, width: int, steps: int, fixed_point_iters: int) -> float:
        """FLOPs of one video's inversion."""
        tokens = self.tokens(frames, height, width)
        forwards = (
            fixed_point_iters + 2 if fixed_point_iters else 1
        )  # the last candidate of an iteration is checked as well
        return steps * forwards * self._forward(tokens, tokens + self.text_tokens)

    def capture(self, frames: int, height: int, width: int, steps: int, rows: int, *, memory: bool) -> float:
        """FLOPs of one sample's reconstruction and of the captured rows."""
        tokens = self.tokens(frames, height, width)
        keys = tokens + self.text_tokens
        step = (
            2 * self._forward(tokens, 2 * keys) + 2 * self._forward(tokens, keys)
            if memory
            else 2 * self._forward(tokens, keys)
        )
        captured = 2 * (min(rows, tokens) + self.text_tokens) * keys * self.width * self.layers
        return steps * (step + captured)

    def trajectory_bytes(self, frames: int, height: int, width: int, steps: int, item: int) -> int:
        """Bytes of a stored trajectory."""
        return (
            (steps + 1)
            * self.channels
            * self.latent_frames(frames)
            * (height // self.spatial)
            * (width // self.spatial)
            * item
        )

    def map_bytes(self, frames: int, height: int, width: int, words: float) -> int:
        """Bytes of a sample's stored t2v maps, fp16."""
        return int(self.heads * words * self.tokens(frames, height, width) * 2)

    def peak_bytes(self, frames: int, height: int, width: int, rows: int, words: float) -> int:
        """Peak of what capture adds on the device: accumulators in fp32 and the q, k of one layer's four streams."""
        tokens = self.tokens(frames, height, width)
        latent = self.latent_frames(frames) // self.patch_t
        accumulators = 4 * self.heads * tokens * (min(rows, tokens) + words + latent)
        return int(accumulators + 4 * 4 * 2 * (tokens + self.text_tokens) * self.width)
