"""Train the small vision-language model: `python -m components.synthetic.vlm.train FOLDER [--steps N] [--seed N] …`.

In one process. Clips are drawn in a side process and come back (`talks.py`); how updates are made and states are saved
is in `training.py`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from components.models.vlm.example import IGNORED, Batch, Example, collate
from components.models.vlm.model import Vlm, load_vlm
from components.models.vlm.rows import request_rows
from components.synthetic.questions import QUESTION_TYPES
from components.synthetic.training import Row, Training, train_from_command_line
from components.synthetic.vlm.card import Answers, write_card
from components.synthetic.vlm.network import TRAINING_SEEDS, VALIDATION_SEED, Recipe, make_network
from components.synthetic.vlm.talks import TrainingTalks, by_letter, drawn, prepared

_LOOKING = 5  # tokens of a question that is to look
_TOGETHER = 24  # questions that are validated at a time


def train(
    folder: Path, recipe: Recipe, *, save_every: int = 500, workers: int = 1, stop_after: int | None = None
) -> Path | None:
    """Train from the last saved state on and write the checkpoint into `folder`; returns it (see `Training`)."""
    with tempfile.TemporaryDirectory(prefix="untrained-") as untrained:
        source = make_network(Path(untrained), recipe)
        return VlmTraining(folder, recipe, source, save_every, workers).run(stop_after)


class VlmTraining(Training[Batch]):
    """The small vision-language model's; `source` is the untrained one's folder."""

    title = "training the small vision-language model"

    def __init__(self, folder: Path, recipe: Recipe, source: Path, save_every: int, workers: int) -> None:
        self.recipe, self.source = recipe, source
        self.vlm = load_vlm(source, torch.float32, "cpu")
        super().__init__(folder, recipe, self.vlm.model, save_every, workers)
        self.vlm.model = self.model
        ids = self.vlm.tokenizer.convert_tokens_to_ids
        self._letters, (self._line, self._dot) = ids(list("ABCD")), ids(["Ċ", "."])

    def samples(self) -> Dataset[Example]:
        """Return the conversations of the recipe's seed."""
        return TrainingTalks(self.vlm, self.recipe, TRAINING_SEEDS[self.recipe.seed])

    @staticmethod
    def joined(samples: Sequence[Example]) -> Batch:
        """Return one batch of many."""
        return collate(samples)

    def losses(self, batch: Batch) -> Float[Tensor, " B"]:
        """Return each conversation's loss: the mean over its response's tokens, and how its rows look.

        What asks and what answers is to attend to the cells that change, as in `bench.align`; what answers by a letter
        is to attend to the right option among all.
        """
        rows = looking_rows(batch)
        request = replace(request_rows(batch, rows), cols=None, col_mask=None)
        output = self.vlm.forward(batch, request)
        learned_BL = output.targets_BL != IGNORED
        losses_BL = functional.cross_entropy(
            output.logits_BLV.float().transpose(1, 2), output.targets_BL, ignore_index=IGNORED, reduction="none"
        )
        assert output.rows_BRS is not None
        response_B = losses_BL.sum(-1) / learned_BL.sum(-1)
        motion_B = motion_distance(output.rows_BRS, request.row_mask, batch)
        option_B = torch.stack(list(map(self._option, output.rows_BRS, rows, batch["input_ids"], batch["labels"])))
        self._parts = {"response": response_B, "motion": motion_B, "option": option_B}
        return response_B + self.recipe.align_weight * motion_B + self.recipe.option_weight * option_B

    def noted(self, batch: Batch, losses_B: Float[Tensor, " B"]) -> Row:
        """Return the parts of the loss."""
        return {name: round(float(part_B.detach().mean()), 4) for name, part_B in self._parts.items()}

    def _option(
        self,
        rows_RN: Float[Tensor, "R N"],
        rows: Int[Tensor, " _"],
        ids_N: Int[Tensor, " N"],
        labels_N: Int[Tensor, " N"],
    ) -> Float[Tensor, ""]:
        """Return −log of the right option's share of what a letter's row attends to in the options; 0 of no letter."""
        learned = torch.nonzero(labels_N != IGNORED).flatten().tolist()
        letters = [at for at in learned if int(ids_N[at]) in self._letters]
        if not letters:
            return rows_RN.new_zeros(())
        answer = letters[-1]
        begins = [at + 1 for at in range(answer) if self._begins_option(ids_N[at : at + 3].tolist())]
        ends = [at + int(torch.nonzero(ids_N[at:] == self._line)[0]) for at in begins]
        row_N = rows_RN[int(torch.nonzero(rows == answer - 1)[-1])]
        mass_4 = torch.stack([row_N[begin:end].sum() for begin, end in zip(begins, ends, strict=True)])
        return -(mass_4 / mass_4.sum()).log()[self._letters.index(int(ids_N[answer]))]

    def _begins_option(self, ids: list[int]) -> bool:
        return ids[0] == self._line and ids[1] in self._letters and ids[2] == self._dot

    def write(self, model: Any, folder: Path) -> str:
        """Write the model's folder, measured on unseen questions."""
        self.vlm.model = model
        answers = validation_answers(self.vlm, self.recipe)
        weights = {name: weight.detach().cpu().half() for name, weight in model.state_dict().items()}
        folder.rmdir()
        self.vlm.save(weights, self.source, folder, torch.float16)
        write_card(folder, self.recipe, answers)
        return f"letters of unseen questions: {answers}"


def looking_rows(batch: Batch) -> list[Int[Tensor, " _"]]:
    """Return which tokens are to attend to motion: the question's first ones, and those that predict a response."""
    found = []
    for columns_S, labels_N in zip(batch["video_columns"], batch["labels"], strict=True):
        first = int(columns_S.max()) + 2  # behind the video's end
        answering = torch.nonzero(labels_N != IGNORED).flatten() - 1
        found.append(torch.cat([torch.arange(first, first + _LOOKING), answering]))
    return found


def motion_distance(
    rows_BRN: Float[Tensor, "B R N"], asked_BR: Bool[Tensor, "B R"], batch: Batch
) -> Float[Tensor, " B"]:
    """Return each conversation's mean squared distance of its rows over the cells, mean 1, from where frames differ."""
    columns_BRS = batch["video_columns"][:, None].expand(-1, rows_BRN.shape[1], -1).to(rows_BRN.device)
    seen_BRS = rows_BRN.gather(2, columns_BRS)
    seen_BRS = seen_BRS / seen_BRS.mean(-1, keepdim=True).clamp_min(1e-9)
    away_BR = (seen_BRS - cell_changes(batch).to(seen_BRS.device)[:, None]).square().mean(-1)
    counted_BR = asked_BR.to(away_BR)
    return (away_BR * counted_BR).sum(-1) / counted_BR.sum(-1)


def cell_changes(batch: Batch) -> Float[Tensor, "B S"]:
    """Return how much each cell changes between the two frames of its pair, mean 1 over a clip's cells."""
    patches_Pc, clips = batch["pixel_values_videos"], len(batch["input_ids"])
    colours_P3Fc = patches_Pc.reshape(len(patches_Pc), 3, 2, -1)
    change_P = (colours_P3Fc[:, :, 1] - colours_P3Fc[:, :, 0]).abs().mean((1, 2))
    change_BS: Tensor = change_P.reshape(clips, -1, 4).mean(-1)  # a cell is four patches
    change_BS = change_BS - change_BS.amin(-1, keepdim=True)  # of the noise
    return change_BS / change_BS.mean(-1, keepdim=True).clamp_min(1e-6)


@torch.no_grad()
def validation_answers(vlm: Vlm, recipe: Recipe) -> dict[str, Answers]:
    """Return how many unseen questions are answered by the right letter, by type: the likeliest first token counts."""
    vlm.model.eval()
    asked, right = Counter[str](), Counter[str]()
    for start in range(0, recipe.validation_questions, _TOGETHER):
        clips = [drawn("bench", VALIDATION_SEED, start + k) for k in range(_TOGETHER)]
        asking = [(clip.question, frames) for clip, frames in clips if clip.question is not None]
        output = vlm.forward(collate([prepared(vlm, by_letter(question), frames) for question, frames in asking]))
        for (question, _), logits_LV, targets_L in zip(asking, output.logits_BLV, output.targets_BL, strict=True):
            first = int(torch.nonzero(targets_L != IGNORED)[0])
            asked[question.kind] += 1
            right[question.kind] += int(logits_LV[first].argmax()) == int(targets_L[first])
    return {kind: Answers(asked=asked[kind], right=right[kind]) for kind in QUESTION_TYPES}


def main(arguments: list[str] | None = None) -> None:
    """Train from the command line."""
    program = "python -m components.synthetic.vlm.train"
    train_from_command_line(program, "Train the small vision-language model.", Recipe, train, arguments)


if __name__ == "__main__":
    main()
