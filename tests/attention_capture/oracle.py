"""Reference for captured attention: whole maps in float64 by a naive softmax over concatenated keys. For tiny models.

The model's own numbers stay float32 so that both sides see the same q and k; everything behind them is float64 here.
"""

from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers import transformer_hunyuan_video

from components.models.video.interface import processors

# sums on the way through the tiny twins: three layers of norm, q·k over 16, up to 144 keys, projections, a layer of 256
TERMS = 3 * (64 + 16 + 144 + 3 * 64 + 256)


class FullMaps:
    """Every call's map of one stream for each norm, [h, L, L] in float64; the layer's output is plain attention's."""

    def __init__(self, stream, memory):
        self.stream, self.memory = stream, memory
        self.maps = {"own": [], "joint": [], "fold": []}

    def attend(self, q, k, v):
        """Return the output of [B, H, L, d] queries, keys and values, float64."""
        q, k, v = q.double(), k.double(), v.double()
        batch, heads, length, width = q.shape
        main = batch // 2 if self.memory else batch
        output = torch.empty_like(q)
        for row in range(batch):
            with_reference = self.memory and row < main
            keys = torch.cat([k[row], k[row + main]], dim=1) if with_reference else k[row]
            values = torch.cat([v[row], v[row + main]], dim=1) if with_reference else v[row]
            union = torch.softmax(q[row] @ keys.transpose(1, 2) / width**0.5, dim=-1)
            output[row] = union @ values
            if row == self.stream:
                own = torch.softmax(q[row] @ k[row].transpose(1, 2) / width**0.5, dim=-1)
                self.maps["own"].append(own)
                self.maps["joint"].append(union[:, :, :length])
                self.maps["fold"].append(union.view(heads, length, -1, length).sum(2))
        return output

    def mean(self, norm, calls=slice(None)):
        return torch.stack(self.maps[norm][calls]).mean(0)


class CogVideoXMaps(FullMaps):
    """A processor of CogVideoX, whose sequence is [text; video]."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text = encoder_hidden_states.size(1)
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        batch, length, _ = x.shape
        q, k, v = (
            f(x).view(batch, length, attn.heads, -1).transpose(1, 2).clone() for f in (attn.to_q, attn.to_k, attn.to_v)
        )
        q, k = attn.norm_q(q), attn.norm_k(k)
        for side in (q, k):
            side[:, :, text:] = apply_rotary_emb(side[:, :, text:], image_rotary_emb)
        y = attn.to_out[0](self.attend(q, k, v).float().transpose(1, 2).reshape(batch, length, -1))
        return y[:, text:], y[:, :text]

    @contextmanager
    def within(self, transformer):
        with processors(transformer, self):
            yield


class HunyuanVideoMaps(FullMaps):
    """What diffusers' own processors of HunyuanVideo call in place of the attention: [B, L, H, d] of [video; text].

    A text's pads are masked there; here they are taken out, and the text is put in front.
    """

    video = 0

    def __call__(self, query, key, value, attn_mask, **options):
        assert not options["dropout_p"]
        assert not options["is_causal"]
        length = query.shape[1]
        read = int(attn_mask[0].sum())
        assert (attn_mask.squeeze(1, 2) == (torch.arange(length) < read)).all()
        order = [*range(self.video, read), *range(self.video)]
        output = torch.zeros_like(query)
        found = self.attend(*(x[:, order].transpose(1, 2) for x in (query, key, value)))
        output[:, order] = found.transpose(1, 2).to(output.dtype)
        return output

    @contextmanager
    def within(self, transformer):
        def count(module, given, patches):
            self.video = patches.shape[1]

        counting = transformer.x_embedder.register_forward_hook(count)
        with patch.object(transformer_hunyuan_video, "dispatch_attention_fn", self):
            yield
        counting.remove()


ORACLES = {"CogVideoXTransformer3DModel": CogVideoXMaps, "HunyuanVideoTransformer3DModel": HunyuanVideoMaps}


@contextmanager
def naive_attention(transformer, stream, memory):
    oracle = ORACLES[type(transformer).__name__](stream, memory)
    with oracle.within(transformer):
        yield oracle


def parts(full, text_indices, grid):
    """What a capture keeps, cut out of the whole map: t2v, same-location entries, text mass, v2v."""
    frames, height, width = grid
    text = full.shape[1] - frames * height * width
    v2v = full[:, text:, text:]
    heads, places = full.shape[0], height * width
    diag = torch.stack([v2v[:, p::places, p::places] for p in range(places)], dim=1)
    assert diag.shape == (heads, places, frames, frames)
    return full[:, list(text_indices), text:], diag, full[:, text:, :text].sum(-1), v2v


def chosen_heads(v2v, grid, ratio):
    """Algorithm 1, step 2, by loops over whole maps: z-scores of DFC, TCS and DSR, summed; the best, ascending."""
    frames, places = grid[0], grid[1] * grid[2]
    measured = []
    for map_SS in v2v.numpy():
        tau, on, off = map_SS.mean(), 0.0, 0.0
        for i, j in np.ndindex(map_SS.shape):
            if i % places == j % places:
                on += map_SS[i, j] ** 2
            else:
                off += map_SS[i, j] ** 2
        means, reached = [], 0
        for place in range(places):
            runs = []
            for f in range(frames):
                row = [map_SS[f * places + place, g * places + place] for g in range(frames)]
                reached += sum(value >= tau * (1 - 1e-6) for value in row)
                text = "".join("x" if value > tau * (1 + 1e-6) else " " for value in row)
                runs += map(len, text.split())
            means.append(np.mean(runs) if runs else 0.0)
        measured.append((on / off, np.mean(means), reached / (places * frames**2)))
    columns = np.array(measured).T
    score = sum((column - column.mean()) / (column.std() or 1.0) for column in columns)
    best = np.argsort(-score, kind="stable")[: int(np.ceil(ratio * len(score)))]
    return sorted(best.tolist())
