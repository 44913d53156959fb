"""A video's inversion as a figure: original frames, the decoded clean and noisiest latents, and two curves.

The root mean square is read against independent noise: E[(a·x₀ + b·ε)²] = a²·E[x₀²] + b² for a level's factors a of the
video and b of noise. Legend: N1 noise levels, F C h w latents.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup
from torch import Tensor

from components.core.artifacts import TrajectoryLine
from components.core.records import Json
from components.ddim_inversion.ddim import step_residuals
from components.ddim_inversion.settings import InversionSettings
from components.ddim_inversion.video import read_source, sample_clip, trajectory_of
from components.media.sampling import spread
from components.models.video.interface import VideoModel
from components.models.video.noise import Levels
from components.pages.charts import Line, line_chart
from components.pages.figures import Cell, StripRow, photo, raw, strip
from components.store.entries import Store

_COLUMNS = 6
_WIDTH = 128  # pixels of a frame: noise compresses badly, and four videos must fit into what the UI shows


def root_mean_squares(trajectory: Float[Tensor, "N1 F C h w"], schedule: Levels) -> tuple[list[float], list[float]]:
    """Return the latents' root mean square at every level, and what independent noise of unit variance would give."""
    squares = trajectory.double().flatten(1).square().mean(1)
    expected = schedule.signal.square() * squares[0] + schedule.noise.square()
    return squares.sqrt().tolist(), expected.sqrt().tolist()


def psnr(one: UInt8[np.ndarray, "n H W 3"], other: UInt8[np.ndarray, "n H W 3"]) -> float:
    """Peak signal to noise ratio in dB, at most 100."""
    error = float(np.square(one.astype(np.float64) - other).mean())
    return min(100.0, 10 * math.log10(255**2 / error)) if error else 100.0


def inversion_picture(
    vdm: VideoModel, store: Store, line: TrajectoryLine, settings: InversionSettings, num_steps: int
) -> tuple[Markup, Json]:
    """Return the figure, and the numbers of its caption."""
    source = read_source(store, line.latents, line.video, lambda: vdm.frames, settings)
    trajectory = trajectory_of(source, lambda: vdm, settings, num_steps)
    with store.borrowed(line.video.file) as path:
        frames = sample_clip(vdm.frames, line.video, settings, path).pixels.numpy()
    kept, noise = (vdm.decode_latents(trajectory[level][None]).numpy() for level in (0, -1))
    schedule, empty = vdm.levels(num_steps), vdm.encode_text("")
    measured, expected = root_mean_squares(trajectory, schedule)
    residuals = step_residuals(lambda x, t: vdm.velocity(x, t, empty), trajectory[:, None].to(vdm.device), schedule)
    times = [line.video.times[index] for index in line.frames]
    figure = _strip([("original", frames), ("what the VAE keeps", kept), ("inverted noise", noise)], times)
    numbers = {"psnr": psnr(frames, kept), "rms": measured[-1], "expected": expected[-1], "residuals": residuals}
    every = list(range(len(measured)))
    sizes = [Line("measured", every, measured, "c1"), Line("independent noise", every, expected, "grey")]
    left = line_chart("Root mean square", sizes, x_name="noise level")
    right = line_chart("Residual of a step", [Line("", every[1:], residuals, "c2")], x_name="noise level")
    return figure + raw(f'<div class="charts">{left}{right}</div>'), numbers


def _strip(rows: list[tuple[str, np.ndarray]], times: list[float]) -> Markup:
    height, width = rows[0][1].shape[1:3]
    stamps = {i: f"{times[i]:.2f} s" for i in spread(len(times), min(_COLUMNS, len(times)))}

    def cell(name: str, frames: np.ndarray, i: int) -> Cell:
        return Cell(photo(frames[i], _WIDTH), smooth=width > _WIDTH, label=f"{name}, {stamps[i]}")

    pictures = [StripRow(name, [cell(name, frames, i) for i in stamps]) for name, frames in rows]
    return strip(pictures, list(stamps.values()), width, height)
