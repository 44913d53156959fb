"""A VLM's input for one sample: the conversation with its text, and the frames of the video that the model sees."""

from __future__ import annotations

from pathlib import Path

import torch

from components.core.records import Sample, Video
from components.core.text import render_question
from components.media.video import read_frames
from components.media.viewing import Viewing
from components.models.vlm.batch import Example
from components.models.vlm.interface import Conversation
from components.models.vlm.model import Vlm, load_vlm


def conversation(sample: Sample, question: str | None = None) -> Conversation:
    """Return the sample with its response as a conversation; with `question` that prompt instead, to be answered."""
    earlier = [(turn.question, turn.response) for turn in sample.earlier]
    if question is not None:
        return Conversation(earlier, question, None)
    return Conversation(earlier, render_question(sample.question, sample.options), sample.response)


def example(vlm: Vlm, viewing: Viewing, video: Video, path: Path, talk: Conversation) -> tuple[Example, list[int]]:
    """Return the model's input for one video and conversation, and the indices of the frames it sees."""
    indices = vlm.family.frames(viewing, video)
    times = [video.times[i] for i in indices]
    return vlm.prepare(talk, read_frames(path, indices), times, video.duration, viewing), indices


def open_vlm(folder: Path, rows: bool) -> Vlm:
    """Return the model for inference: bf16 on a GPU, fp32 in one thread on a CPU, so that sums come out the same."""
    if torch.cuda.is_available():
        return load_vlm(folder, torch.bfloat16, "cuda", rows=rows)
    torch.set_num_threads(1)
    return load_vlm(folder, torch.float32, "cpu", rows=rows)
