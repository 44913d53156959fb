"""The ablations that the paper prints and the controls that it lacks, as lists of variants; the first is the baseline.

A row holds everything that its table varies, also where that is a default, so that it stays the table's row whatever
the pipeline's own parameters are.
"""

from __future__ import annotations

from components.core.records import Json

_BOTH_OFF = {"params_head_selection": {"mhs": False}, "params_token_selection": {"mtti": False}}
# Without an alignment loss nothing reads the maps: one cheap step of the video model finds the words all the same.
_WITHOUT_MAPS = {
    "align_weight": 0,
    "num_steps": 1,
    "params_ddim_inversion": {"fixed_point_iters": 0},
    "params_attention_capture": {"guidance_scale": 1, "memory": False},
}


def _selected(mhs: bool, mtti: bool) -> Json:
    return {"params_head_selection": {"mhs": mhs}, "params_token_selection": {"mtti": mtti}}


def _measured(steps: int, ratio: float) -> Json:
    return {"num_steps": steps, "head_ratio": ratio, "token_ratio": ratio, **_selected(True, True)}


def _control(name: str) -> Json:
    return {"params_sft": {"prior_control": name}}


PRESETS: dict[str, list[Json]] = {
    # Table 3 of the main paper: which of the two selections helps
    "paper_table3": [
        {"name": "no MHS, no MTTI", **_selected(False, False)},
        {"name": "MHS alone", **_selected(True, False)},
        {"name": "MTTI alone", **_selected(False, True)},
        {"name": "MHS and MTTI", **_selected(True, True)},
    ],
    # Table 5 of the supplement: steps of DDIM, shares of heads and tokens; its first row is Table 3's
    "paper_table5": [
        {"name": "no MHS, no MTTI", "num_steps": 5, **_BOTH_OFF},
        {"name": "2 steps", **_measured(2, 0.5)},
        {"name": "5 steps", **_measured(5, 0.5)},
        {"name": "10 steps", **_measured(10, 0.5)},
        {"name": "25 % of heads and tokens", **_measured(5, 0.25)},
        {"name": "50 % of heads and tokens", **_measured(5, 0.5)},
        {"name": "75 % of heads and tokens", **_measured(5, 0.75)},
    ],
    # Table 6 of the supplement: a fifth of the data aligned against all of it plain. `source` is all of MotionVid-QA.
    "paper_table6": [
        {"name": "all of MotionVid-QA, plain", **_WITHOUT_MAPS},
        {"name": "25k aligned", "source": {"samples": 25_000}},
    ],
    # What a gain must beat to be the prior's: training alone, and maps that do not hold this clip's motion
    "controls": [
        {"name": "plain SFT", "align_weight": 0},
        {"name": "aligned", **_control("none")},
        {"name": "shuffled", **_control("shuffled")},
        {"name": "uniform", **_control("uniform")},
        {"name": "frame difference", **_control("frame_difference")},
    ],
}
