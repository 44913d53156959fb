"""Data of `bench.align`: scenes in which one of three objects moves, the question, and the maps to align with.

A clip has 6 frames of 40 × 40 pixels; the tiny model sees 3 × 5 × 5 cells, each 8 × 8 pixels of two frames. The
generator draws without noise: pixel noise of deviation 6 (of 255) is added here, seeded by the scene. The video
model's prior comes from the same scene drawn without noise at that model's own number of frames, brought onto the
VLM's cells by time stamps.

Legend: N scenes, n frames, F h w the VLM's grid of cells, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from components.attention_capture.capture import CaptureSpec
from components.attention_capture.memory import reconstruct_with_memory
from components.ddim_inversion.ddim import invert
from components.media.grids import pool_mask, resample, sampled_grid
from components.media.map_algebra import frame_difference_prior
from components.media.viewing import Viewing
from components.models.video.cogvideox import CogVideoX
from components.models.vlm.example import IGNORED, Batch, Example, collate
from components.models.vlm.pixels import ImageSettings
from components.models.vlm.qwen2_5_vl import Qwen
from components.sft.loss import shuffled_prior
from components.synthetic.drawing import COLOURS, Scene, still_camera
from components.synthetic.scenes import Clip, draw, make_clip

SIZE, NUM_FRAMES, FPS = (40, 40), 6, 2.0
NOISE = 6.0  # deviation, of 255
TRAIN_SEEDS, TEST_SEEDS = 1000, 900_000  # a run's seed is added
TRAIN_COUNT, TEST_COUNT = 300, 512

QUESTION = ("which", "object", "moves")
ROLES = {
    "pad": "<pad>",
    "eos": "<eos>",
    "image": "<image>",
    "video": "<video>",
    "vision_start": "<vs>",
    "vision_end": "<ve>",
}
ASK, REPLY = "<q>", "<a>"
IDS = {word: index for index, word in enumerate((*ROLES.values(), ASK, REPLY, *COLOURS, *QUESTION))}
ANSWERS = [IDS[colour] for colour in COLOURS]

_GREY = ImageSettings(mean=(0.5, 0.5, 0.5), std=(70 / 255,) * 3, scale=1 / 255)
INPUTS = Qwen(
    image=_GREY,
    placeholder=ROLES["video"],
    visual_id=IDS[ROLES["video"]],
    patch=4,
    merge=2,
    group=2,
    tokens_per_second=2,
)
TIMES = [k / FPS for k in range(NUM_FRAMES)]
CELL = INPUTS.patch * INPUTS.merge  # pixels of its side
GRID = sampled_grid(TIMES, INPUTS.group, SIZE[0] // CELL, SIZE[1] // CELL, NUM_FRAMES / FPS)

VDM_STEPS = 5


@dataclass(frozen=True, eq=False)
class Scenes:
    """Clips with their question as the model takes it, and where the mover and the standing objects are.

    Attributes:
        clips: scene and caption.
        frames_NnHW3: with noise.
        batch: all of them, as `collate` gives it.
        question_rows_R: where the question's words stand in the sequence.
        answer_at: where the answer stands; the row before it predicts it.
        mover_NFhw: share of each cell that the moving object covers.
        static_NFhw: share that standing objects cover.
    """

    clips: list[Clip]
    frames_NnHW3: UInt8[Tensor, "N n H W 3"]
    batch: Batch
    question_rows_R: Int[Tensor, " R"]
    answer_at: int
    mover_NFhw: Float[Tensor, "N F h w"]
    static_NFhw: Float[Tensor, "N F h w"]


def make_scenes(seed: int, count: int) -> Scenes:
    """Return the first `count` clips of the generator's `scenes` with this seed."""
    clips = [make_clip("scenes", seed, index, SIZE, NUM_FRAMES) for index in range(count)]
    frames, examples, movers, statics = [], [], [], []
    for index, clip in enumerate(clips):
        clean_nHW3, mover_nHW, ids_nHW = draw(clip.scene, SIZE)
        noisy_nHW3 = clean_nHW3 + np.random.default_rng([seed, index]).normal(0, NOISE, clean_nHW3.shape)
        frames.append(np.clip(np.round(noisy_nHW3), 0, 255).astype(np.uint8))
        examples.append(make_example(frames[-1], moving_colour(clip)))
        movers.append(torch.from_numpy(pool_mask(mover_nHW, TIMES, GRID)))
        statics.append(torch.from_numpy(pool_mask(ids_nHW * (1 - mover_nHW), TIMES, GRID)))
    first = examples[0]
    start, end = first.spans["question"]
    return Scenes(
        clips=clips,
        frames_NnHW3=torch.from_numpy(np.stack(frames)),
        batch=collate(examples),
        question_rows_R=torch.nonzero((first.offsets[:, 0] >= start) & (first.offsets[:, 1] <= end)).flatten(),
        answer_at=int(torch.nonzero(first.labels != IGNORED)[0]),
        mover_NFhw=torch.stack(movers),
        static_NFhw=torch.stack(statics),
    )


def moving_colour(clip: Clip) -> str:
    """Return the answer; in `scenes` one object always moves."""
    assert clip.scene.mover is not None
    return clip.scene.bodies[clip.scene.mover].colour


def make_example(frames_nHW3: UInt8[np.ndarray, "n H W 3"], answer: str) -> Example:
    """`<vs> <video>… <ve> <q> which object moves <a> red <eos>`; the answer and the end are learned."""
    viewing = Viewing.model_validate({})
    shape = INPUTS.shape(*frames_nHW3.shape[:3], viewing)
    video = [ROLES["vision_start"], *[ROLES["video"]] * prod(shape), ROLES["vision_end"]]
    words = [*video, ASK, *QUESTION, REPLY, answer, ROLES["eos"]]
    ids_L = torch.tensor([IDS[word] for word in words])
    starts = list(accumulate((len(word) + 1 for word in words[:-1]), initial=0))
    offsets = [(start, start + len(word)) for start, word in zip(starts, words, strict=True)]
    ask, reply = words.index(ASK), words.index(REPLY)
    return Example(
        input_ids=ids_L,
        position_ids=INPUTS.positions(ids_L, shape, INPUTS.group / FPS, viewing),
        labels=torch.where(torch.arange(len(words)) > reply, ids_L, IGNORED),
        pixels=INPUTS.pixels(frames_nHW3, INPUTS.frame_size(*frames_nHW3.shape[:3], viewing)),
        video_columns=torch.nonzero(ids_L == INPUTS.visual_id).flatten(),
        grid=GRID,
        offsets=torch.tensor(offsets),
        text=" ".join(words),
        spans={"question": (offsets[ask + 1][0], offsets[reply - 1][1]), "response": offsets[reply + 1]},
    )


# Maps to align with ---------------------------------------------------------------------------------------------------


def frame_differences(scenes: Scenes) -> Float[Tensor, "N F h w"]:
    """Return each clip's mean |frame difference|, mean 1: no label, no model."""
    shape_1Fhw = torch.empty(1, *GRID.shape)
    return torch.cat(
        [frame_difference_prior(shape_1Fhw, frames_nHW3, TIMES, GRID) for frames_nHW3 in scenes.frames_NnHW3]
    )


def shuffled(maps_NFhw: Float[Tensor, "N F h w"]) -> Float[Tensor, "N F h w"]:
    """Give each scene the map of the scene before it."""
    pairs = zip(maps_NFhw.split(1), maps_NFhw.roll(1, 0).split(1), strict=True)
    return torch.cat([shuffled_prior(own, other) for own, other in pairs])


def video_prior(vdm: CogVideoX, clip: Clip, num_steps: int = VDM_STEPS) -> Float[Tensor, "F h w"]:
    """Return the video model's attention from the caption's words to the clip, on `GRID`: the mean over all but place.

    Inversion without text, then reconstruction with cross-stream memory under the caption, as in the pipeline's first
    two steps.
    """
    config = vdm.transformer.config
    side, count = int(config.sample_height) * vdm.sizes.spatial, int(config.sample_frames)
    frames_nHW3, _, _ = draw(at_frames(clip.scene, count), (side, side))
    duration = TIMES[-1] / (count - 1)
    seen = vdm.grid([k * duration for k in range(count)], side, side, (0.0, 1.0, 0.0, 1.0))
    schedule, empty = vdm.levels(num_steps), vdm.encode_text("")
    trajectory = invert(lambda x, t: vdm.velocity(x, t, empty), vdm.encode_video(frames_nHW3), schedule).trajectory
    spec = CaptureSpec(tuple(piece.index for piece in vdm.tokenize(clip.caption)), seen.shape, rows=2, memory=True)
    found = reconstruct_with_memory(vdm, trajectory, schedule, vdm.encode_text(clip.caption), capture=spec)
    assert found.maps is not None
    map_FHW, covered_Fhw = resample(found.maps.t2v.mean((0, 1)).view(seen.shape).cpu(), seen, GRID)
    assert bool(covered_Fhw.all())
    return map_FHW


def at_frames(scene: Scene, num_frames: int) -> Scene:
    """Return the same straight courses at another number of frames, from the first to the last moment."""
    progress_F1 = np.linspace(0, 1, num_frames)[:, None]
    bodies = [
        replace(
            body,
            centres=body.centres[0] + progress_F1 * (body.centres[-1] - body.centres[0]),
            scales=np.ones(num_frames),
            turns=np.zeros(num_frames),
        )
        for body in scene.bodies
    ]
    return replace(scene, bodies=tuple(bodies), camera=still_camera(num_frames))
