"""Video diffusion models: each family is one module here with a `FAMILY`, which is all it takes to add one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.core.errors import ParameterError
from components.models.family import find_families
from components.models.pretrained import read_json
from components.models.video.interface import VideoFamily, VideoModel

_DTYPES = ("bfloat16", "float32", "float16")


def families() -> list[VideoFamily]:
    """Return the families of video models."""
    return find_families(__name__, VideoFamily, shared=("interface", "causal", "noise", "twins"))


def _names() -> str:
    return " or ".join(family.name for family in families())


def fewest_frames() -> int:
    """Return the fewest frames that any family takes."""
    return min(family.frames.fewest for family in families())


def family_of(folder: Path) -> VideoFamily:
    """Return the family of a folder, by the class names in its configuration.

    Raises:
        ParameterError: no pipeline in the layout of diffusers, or one of no family.
        DataError: a configuration cannot be read.
    """
    remedy = f"give a text-to-video repository of {_names()} in the diffusers layout"
    index, config = read_json(folder / "model_index.json"), read_json(folder / "transformer" / "config.json")
    if index is None or config is None:
        problem = "no diffusers pipeline: model_index.json or transformer/config.json is missing"
        raise ParameterError(problem, source=str(folder), remedy=remedy)
    pipeline, transformer = str(index.get("_class_name")), config.get("_class_name")
    for family in families():
        if pipeline.startswith(family.pipeline) and transformer == family.transformer:
            return family
    raise ParameterError(f"a pipeline of {pipeline} with {transformer}", source=str(folder), remedy=remedy)


def family_of_transformer(transformer: Any) -> VideoFamily:
    """Return the family of a transformer, by its class.

    Raises:
        ParameterError: a transformer of no family.
    """
    classes = {kind.__name__ for kind in type(transformer).__mro__}
    for family in families():
        if family.transformer in classes:
            return family
    problem = f"a transformer of {type(transformer).__name__}"
    raise ParameterError(problem, source="capture_attention", remedy=f"give the transformer of {_names()}")


def load_vdm(folder: Path | str, dtype: Any = "bfloat16", device: Any = None) -> VideoModel:
    """Load a video model from a repository in the diffusers layout, by default on the first CUDA device.

    `dtype` is `bfloat16`, `float32`, `float16` or a torch dtype. With float32 on a GPU, convolutions leave
    TensorFloat-32 from then on in this process: its ten bits are not what was asked for.

    Raises:
        ParameterError: a folder of no family or one that its family refuses, or an unknown dtype.
        DataError: a part that cannot be read, has no safetensors, or lacks tensors or the vocabulary.
    """
    import torch

    if isinstance(dtype, str) and dtype not in _DTYPES:
        raise ParameterError(f"unknown dtype {dtype!r}", source="dtype", remedy=f"use one of {', '.join(_DTYPES)}")
    number_format = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    where = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    family = family_of(Path(folder))
    if number_format == torch.float32 and where.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # PyTorch's default is True, unlike that of matrix products
    return family.load(Path(folder), number_format, where)
