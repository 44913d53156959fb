"""One module for training, MotionSFT(VLM, aligner), whose forward gives L = L_AR + λ · L_align, so one engine can wrap it.

L_align: the words' rows of all layers and heads, averaged, on the prior's grid, through the aligner, against the prior. Also the
parameter groups of the paper's recipe, low-rank updates, and the folder that plain `from_pretrained` opens.

Legend: B samples (1), T words, R rows of the sequence, S visual tokens, F H W the prior's grid.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.models.vlm import Vlm, collate
from components.sft.aligner import make_aligner
from components.sft.data import Item, Target
from components.sft.loss import map_distance, response_loss
from components.sft.settings import SftSettings
from components.vlm_attention.maps import on_grid
from components.vlm_attention.rows import RowRequest

_KEPT = {".json", ".jinja", ".txt", ".model"}  # what a checkpoint's folder holds beside its weights
_WRITTEN = {"config.json", "generation_config.json"}
