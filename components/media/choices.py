"""The choices of media's algorithms, by name; apart from them, so that a step's declaration imports no torch."""

from typing import Literal

Sampling = Literal["whole", "native_fps"]
Window = Literal["first", "middle", "motion"]
Fit = Literal["squash", "crop"]
RowNorm = Literal["mean1", "sum1", "max", "zscore", "none"]
Distance = Literal["mse", "sse", "l2"]
GridChoice = Literal["aligned", "interpolate"]
PositionRule = Literal["qwen", "transformers"]
