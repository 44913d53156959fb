"""A VLM's input for one sample: the conversation with its text, and the frames of the video that the model sees."""

from __future__ import annotations

from pathlib import Path

import torch

from components.core.records import Sample, Video
from components.core.text import render_question
from components.media.viewing import Viewing, view
from components.models.vlm.interface import Conversation, Example, Vlm, load_vlm


def conversation(sample: Sample, question: str | None = None) -> Conversation:
    """The sample as a conversation with its response; with `question` that prompt instead, and nothing answered yet."""
    earlier = [(turn.question, turn.response) for turn in sample.earlier]
    if question is not None:
        return Conversation(earlier=earlier, question=question, response=None)
    return Conversation(
        earlier=earlier, question=render_question(sample.question, sample.options), response=sample.response
    )


def example(vlm: Vlm, viewing: Viewing, video: Video, path: Path, talk: Conversation) -> tuple[Example, list[int]]:
    """The model's input for one video and conversation, and the indices of the frames it sees."""
    frames, times, indices = view(viewing, vlm.family, video, path)
    return vlm.prepare(talk, frames, times, video.duration, viewing.max_pixels), indices


def open_vlm(folder: Path, rows: bool) -> Vlm:
    """The model for inference: bf16 on a GPU, fp32 in one thread on a CPU, so that sums come out the same."""
    if torch.cuda.is_available():
        return load_vlm(folder, torch.bfloat16, "cuda", rows=rows)
    torch.set_num_threads(1)
    return load_vlm(folder, torch.float32, "cpu", rows=rows)
