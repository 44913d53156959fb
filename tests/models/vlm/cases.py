"""All tiny VLMs and a conversation about a random clip, for the tests of the model and of its attention."""

import numpy as np
import torch

from components.models.registry import ensure_tiny
from components.models.vlm.interface import Conversation
from components.models.vlm.model import load_vlm

NAMES = QWEN, INTERN, QWEN3 = ("tiny-qwen2.5-vl", "tiny-internvl3", "tiny-qwen3-vl")
TALK = Conversation([], "Which object moves?\nA. the red ball\nB. nobody", "The red ball moves left.")


def load(name, **options):
    return load_vlm(ensure_tiny(name), torch.float32, "cpu", **options)


def clip(n=5, height=64, width=96, seed=0):
    frames = np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    return frames, [float(k) for k in range(n)], float(n)


def example(vlm, talk=TALK, **options):
    return vlm.prepare(talk, *clip(**options))
