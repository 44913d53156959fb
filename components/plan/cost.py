"""What the video model's part of a run will cost: FLOPs, bytes and peak memory of one clip, from the model's sizes.

A reconstruction step with cross-stream memory runs four samples; two of them attend to twice the keys. FLOPs are
checked against a FLOP counter on the real shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.models.video.interface import Sizes

A100_FLOPS = 184e12  # bf16, what the published "180 s for 50 guided steps" implies for CogVideoX-5B on one A100


@dataclass(frozen=True)
class ClipCost:
    """A clip of so many frames of height × width pixels in a model of these sizes."""

    model: Sizes
    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """S, the video tokens."""
        return self.model.tokens(self.frames, self.height, self.width)

    @property
    def _keys(self) -> int:
        return self.tokens + self.model.text_tokens

    def inversion(self, steps: int, fixed_point_iters: int) -> float:
        """FLOPs of the inversion."""
        # the last candidate of an iteration is checked as well
        forwards = fixed_point_iters + 2 if fixed_point_iters else 1
        return steps * forwards * self.model.forward(self.tokens, self._keys)

    def capture(self, steps: int, rows: int, *, memory: bool) -> float:
        """Return the FLOPs of one sample's reconstruction and of the captured rows."""
        step = 2 * self.model.forward(self.tokens, self._keys)
        if memory:
            step += 2 * self.model.forward(self.tokens, 2 * self._keys)
        kept = min(rows, self.tokens) + self.model.text_tokens
        return steps * (step + 2 * kept * self._keys * self.model.width * self.model.layers)

    def trajectory_bytes(self, steps: int, item: int) -> int:
        """Bytes of the stored trajectory, `item` per number."""
        model = self.model
        latents = model.latent_frames(self.frames) * (self.height // model.spatial) * (self.width // model.spatial)
        return (steps + 1) * model.channels * latents * item

    def map_bytes(self, words: float) -> int:
        """Return the bytes of a sample's stored t2v maps, fp16."""
        return int(self.model.heads * words * self.tokens * 2)

    def peak_bytes(self, rows: int, words: float) -> int:
        """Return the peak of what capture adds on the device: fp32 accumulators, and q and k of four streams."""
        latent = self.model.latent_frames(self.frames) // self.model.patch_t
        accumulators = 4 * self.model.heads * self.tokens * (min(rows, self.tokens) + words + latent)
        return int(accumulators + 4 * 4 * 2 * self._keys * self.model.width)
