"""Rows of the extraction: how long the device waits for files, with a stand-in for the video model.

The step is ddim_inversion as it stands, on real clips: fetched, decoded, resized, written. The model alone is a
stand-in, which sleeps as long for a clip as one thread decoded it before, and so leaves the processor alone as a GPU
would. The files of both runs are shown to be the same.

Then the reading itself: two threads of one process against two processes, which have to send what they read.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from bench.measure import seconds, time_ratio, workers
from bench.reading import clip
from bench.table import Row
from components.core.artifacts import VideoDataset, VideoLine
from components.core.records import Grid, Json, Ref, StepRecord, Video, sha256
from components.ddim_inversion.settings import InversionSettings
from components.ddim_inversion.step import STEP
from components.ddim_inversion.video import sample_clip
from components.models.registry import ensure_tiny
from components.models.video.causal import causal_grid
from components.models.video.cogvideox import FRAMES
from components.models.video.interface import EncodedText, Sizes, VideoModel
from components.models.video.noise import Levels, diffusion_levels
from components.runtime.ahead import threads
from components.runtime.runner import run_step
from components.store.entries import Store

CLIPS, SECONDS, READERS = 24, 8, 2
SETTINGS = InversionSettings(num_frames=25)
MODEL, STEPS = "tiny-cogvideox", 5  # whose digest is in the keys; the stand-in is what computes


def rows(pairs: int = 2) -> Iterator[Row]:
    """Measure the extraction's rows of the table."""
    ensure_tiny(MODEL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write(folder)
        decoding = statistics.median(seconds(partial(_read, folder / "videos", line.video)) for line in data.lines)
        alone, written = _run(folder, data, 0, decoding)
        ahead, others = _run(folder, data, READERS, decoding)
        if written != others:
            raise RuntimeError("the two runs did not write the same files")
        label = f"{CLIPS} clips, a model as fast as decoding, one at a time: share of the time that it waits"
        detail = f"{decoding:.2f} s to decode, as long to compute"
        yield Row(label, alone["device_waited"], None, f"{detail}, {alone['units_per_hour']:.0f} an hour")
        yield Row(f"the same, {READERS} ahead", ahead["device_waited"], 0.1, f"{ahead['units_per_hour']:.0f} an hour")
        videos = [line.video for line in islice(data.lines, 8)]
        with threads(READERS) as pool, workers(READERS) as processes:
            read = partial(_read, folder / "videos")
            one, other = (lambda pool=pool: list(pool.map(read, videos)) for pool in (pool, processes))
            yield time_ratio(f"{len(videos)} clips read by two threads / two processes, time", None, one, other, pairs)


def write(folder: Path) -> VideoDataset:
    """Write clips and the data set's artifact; their files lie in `videos/`."""
    path, info = clip(folder / "clip.mp4", SECONDS)
    store, lines = Store(str(folder)), []
    for k in range(CLIPS):
        data = path.read_bytes() + (16).to_bytes(4, "big") + b"free" + k.to_bytes(8, "big")  # a clip of its own
        ref = Ref(path=f"videos/{sha256(data)}.mp4", sha256=sha256(data), bytes=len(data), task="dataset_import")
        store.backend.put(ref.path, data)
        shown: Json = {"width": info.width, "height": info.height, "rotation": 0, "duration": info.duration}
        lines.append(VideoLine(video=Video(file=ref, times=list(info.times), **shown), samples=[]))
    record = StepRecord(version="1", params={}, scalars={})
    made = VideoDataset(kind="VideoDataset", provenance={"dataset_import": record}, lines=lines)
    (folder / "artifact").mkdir()
    (folder / "artifact" / "manifest.json").write_bytes(made.to_bytes())
    return made


@dataclass(frozen=True, eq=False)
class StandIn(VideoModel):
    """A model whose latents are small pictures of the frames, and whose passes sleep."""

    pause: float = 0.0  # seconds of a forward pass

    def levels(self, num_steps: int) -> Levels:
        return diffusion_levels(torch.linspace(0.99, 0.0, 1000, dtype=torch.float64), num_steps)

    def encode_text(self, text: str) -> EncodedText:
        return EncodedText(torch.zeros(1, 1, 1))

    def grid(
        self, frame_times: Sequence[float], height: int, width: int, box: tuple[float, float, float, float]
    ) -> Grid:
        return causal_grid(frame_times, height, width, box, patch=2, patch_t=1, spatial=8)

    def encode_video(self, frames: UInt8[Any, "n height width 3"]) -> Float[Tensor, "1 F C h w"]:
        return functional.avg_pool2d(frames[::4].permute(0, 3, 1, 2).float(), 8)[None]

    def decode_latents(self, latents: Float[Tensor, "1 F C h w"]) -> UInt8[Tensor, "n height width 3"]:
        raise NotImplementedError

    def velocity(
        self, latents: Float[Tensor, "B F C h w"], timestep: float, text: EncodedText
    ) -> Float[Tensor, "B F C h w"]:
        time.sleep(self.pause)
        return latents.tanh()


def _run(folder: Path, data: VideoDataset, prefetch: int, decoding: float) -> tuple[Json, dict[str, bytes]]:
    """Invert all clips on a store of its own; return the step's metrics, and the files that it wrote."""
    sizes, cpu = Sizes(1, 1, 1, 1, 3, 2, 1, 8, 4, (25, 480, 720)), torch.device("cpu")
    model = StandIn(None, None, None, None, None, sizes, FRAMES, torch.float32, cpu, decoding / STEPS)
    out = folder / f"ahead-{prefetch}"
    (out / "store").mkdir(parents=True)
    (out / "store" / "videos").symlink_to(folder / "videos")
    Store(str(out / "store")).publish(data)
    params = {**SETTINGS.result(), "pictures": 0, "prefetch": prefetch}
    values = STEP.shared.pipeline_defaults() | {"store": str(out / "store"), "vdm": MODEL, "num_steps": STEPS}
    values |= {"shard": "0/1", "params": params, "rerun": "0"}
    with patch("components.models.video.load_vdm", lambda *_: model):
        outputs = run_step(STEP, out, values, {"videos": [folder / "artifact"]})
    places = [out / "store" / STEP.name, out / "store" / "scratch"]
    files = [file for place in places for file in place.rglob("*.*")]
    return json.loads(outputs["metrics"].read_bytes()), {str(f.relative_to(out)): f.read_bytes() for f in files}


def _read(videos: Path, video: Video) -> Tensor:
    return sample_clip(FRAMES, video, SETTINGS, videos / Path(video.file.path).name).pixels
