"""FLOPs that training a VLM on one sample needs, from shapes alone: 6 per weight and token, and attention.

PaLM's count (Chowdhery et al. 2022, appendix B) for each part over what passes it: the vision tower's weights over its
patches, the merger's over the cells, the language model's over all tokens, the output layer's over the predicted
tokens, whose logits alone are computed. A product of a weight costs 2 in the forward pass, 2 for the weight's gradient
where it is trained, and 2 for its input's where something at or before its part is trained: 6, 4 (only passed
through), or 2 (forward only). Attention costs 4 · width per (query, key) pair, twice as much more where a gradient
passes; as there, without discount for the causal mask. Norms, rotations, the aligner and captured rows are left out.
With low-rank updates the gradient towards the first layer's input is counted, though nothing needs it.
"""

from __future__ import annotations

import re
from math import prod
from typing import Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd

from components.models.vlm.example import IGNORED, Example
from components.models.vlm.model import Vlm
from components.sft.rates import Rates

Part = Literal["tower", "merger", "llm"]


class TrainingFlops:
    """Counts for one model as it is trained; made before the model is sharded, while its weights have their shapes."""

    def __init__(self, vlm: Vlm) -> None:
        self.family, self.config, model = vlm.family, vlm.model.config, vlm.model
        output = model.get_output_embeddings()
        head = next(name for name, module in model.named_modules() if module is output)
        trained = {self._part(name, head) for name, weight in model.named_parameters() if weight.requires_grad}
        flows = {"tower": "tower" in trained, "merger": bool(trained & {"tower", "merger"}), "llm": True}
        forward = dict.fromkeys(("patches", "tower", "merger", "llm", "head"), 0)
        training = dict(forward)
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | _ConvNd):
                part = self._part(name + ".", head)
                place = "head" if _below(name, head) else "patches" if isinstance(module, _ConvNd) else part
                passes = flows[part] and place != "patches"  # pixels need no gradient
                forward[place] += 2 * _weights(module)
                training[place] += 2 * _weights(module) * (1 + passes + module.weight.requires_grad)
        text = self.config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        attention = 4 * text.num_hidden_layers * text.num_attention_heads * size
        self.rates = Rates(forward, training, attention, flows["tower"])

    def _part(self, name: str, head: str) -> Part:
        if re.search(self.family.tower, name):
            return "tower"
        return "llm" if re.search(self.family.language, name) or _below(name, head) else "merger"

    def of(self, example: Example) -> int:
        """Return the FLOPs of one forward and backward pass of a sample."""
        cells, tokens = example.video_grid.shape, len(example.input_ids)
        work = self.family.tower_work(self.config, cells)
        predicted = int((example.labels[1:] != IGNORED).sum())
        return self.rates.trained(work, prod(cells), tokens, predicted)


def _below(name: str, head: str) -> bool:
    return f"{name}.".startswith(f"{head}.")


def _weights(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    assert isinstance(module, _ConvNd)
    return module.in_channels // module.groups * module.out_channels * prod(module.kernel_size)
