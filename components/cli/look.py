"""`look`: steps 0 to 4 on one clip in this process, and one page of what the video model attended to.

The steps are the pipeline's own, on a store that is gone afterwards: the page shows the numbers that `motion_priors`
would publish for this clip.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.artifacts import PriorSet
from components.core.errors import DataError, ParameterError, UnitsFailed
from components.core.progress import track
from components.kubeflow.arguments import nested
from components.models.registry import TINY, resolve
from components.models.video import family_of
from components.runtime.declaration import declared
from components.runtime.runner import run_step
from components.steps import EXTRACTION
from components.store.entries import Store
from components.store.file import FileBackend
from components.synthetic.cards import RECORD

CHAIN = (*EXTRACTION, "prior_set")  # what each of them makes is what the next one takes
FORMS = {"dataset_import": "training", "prior_set": "collected"}


def look(
    clip: Path | str,
    text: str,
    vdm: str = "scenes-cogvideox",
    *,
    output: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Return the page of one clip (HTML): words that carry motion, their maps, the reconstruction, the heads.

    Args:
        clip: a video file.
        text: what happens in it; the video model reconstructs the clip under this text.
        vdm: the video model: a registry name or a diffusers folder. Frames and size are the model's own.
        output: a file that the page is written to, whole or not at all.
        settings: parameters of `motion_priors`, e.g. `{"num_steps": 10, "params_attention_capture.rows": 8}`.

    Raises:
        ParameterError: no such file, an empty text, a parameter that a step refuses.
        DataError: the clip cannot be decoded, or is too short for the video model.
    """
    clip = Path(clip)
    if not clip.is_file():
        raise ParameterError(f"no file {clip}", source="look", remedy="give a video file")
    if not text.strip():
        raise ParameterError("the text is empty", source="look", remedy='describe the clip: "a man raises his arm"')
    known = {**chain_defaults(), "vdm": vdm}
    known["params_ddim_inversion"] |= model_size(vdm)
    known["params_attention_capture"] |= {"max_unreadable": 1.0}  # the page says what is not read
    values = {**known, **nested(settings or {}, known, "settings"), "shard": "0/1", "text": "response"}
    with tempfile.TemporaryDirectory(prefix="look-") as name:
        folder, source, store = Path(name), Path(name, "clip"), Path(name, "store").as_uri()
        source.mkdir()
        shutil.copyfile(clip, source / clip.name)
        (source / "train.jsonl").write_text(json.dumps({"video": clip.name, "response": text}) + "\n")
        try:
            priors = extract_priors(folder, {**values, "source": str(source), "store": store})
        except UnitsFailed as error:
            (reason,) = error.reasons.values()
            raise DataError(reason, source=str(clip), remedy="give another clip, or another text") from None
        page = _page(Store(store), priors, clip.name)
    if output is not None:
        target = Path(output).absolute()
        FileBackend(target.parent).put(target.name, page.encode())
    return page


def chain_defaults() -> dict[str, Any]:
    """Return the shared parameters and `params_<step>` of these steps with their defaults."""
    found: dict[str, Any] = {}
    for name in CHAIN:
        step = declared(name)
        found |= step.form(FORMS.get(name, "")).shared.pipeline_defaults() | {f"params_{name}": step.defaults()}
    return found


def extract_priors(folder: Path, values: Mapping[str, Any]) -> PriorSet:
    """Run the steps one after another in this process, their outputs side by side in `folder`.

    Args:
        folder: where each step's artifacts go, by its name.
        values: `params_<step>` of every step, and the shared parameters of all, among them `store` and the one shard.
    """
    made: list[Path] = []
    for name in track(CHAIN, "steps"):
        step = declared(name)
        form = step.form(FORMS.get(name, ""))
        given = {key: values[key] for key in form.shared.model_fields if key in values}
        given |= {"params": values[f"params_{name}"], "rerun": "0"}
        outputs = run_step(step, folder / name, given, dict.fromkeys(form.inputs, made))
        made = [outputs[output] for output in step.outputs]
    return Store(values["store"]).opened(folder / "prior_set" / "priors", PriorSet)


def _page(store: Store, priors: PriorSet, name: str) -> str:
    from components.pages.figures import code, raw
    from components.pages.page import Section, fact_list, render
    from components.report.clips import heads, idea, motion_words, reconstruction
    from components.report.material import PriorMaterial

    material, (line,) = PriorMaterial(store, priors), priors.lines
    model, trust, clip = priors.provenance["ddim_inversion"].models["vdm"], line.confidence, line.video
    facts = {
        "video model": raw("{} {}").format(model.name, code(model.digest[:12])),
        "clip": f"{clip.width} × {clip.height}, {clip.duration:.1f} s, {len(clip.times)} frames",
        "map": f"{' × '.join(map(str, line.grid.shape))} cells (time, rows, columns)",
        "confidence": f"{trust.value:.2f} (concentration {trust.concentration:.2f}, dynamics {trust.dynamics:.2f})",
    }
    lead = f"“{line.sample.response}”: what a video model attends to in {name}"
    random = "Random weights: this page shows the form of a result, not a result." if model.name in TINY else ""
    warning = raw("<p>{}</p>").format(random)
    head = Section("verdict", "Look", lead, fact_list(facts.items()) + warning)
    parts = [section(material, [line]) for section in (idea, motion_words, reconstruction, heads)]
    return render([head, *parts], name="look")


def model_size(vdm: str) -> dict[str, Any]:
    """Return frames, height and width that a video model was trained at, by its configuration, and a number format.

    bfloat16 on a GPU; float32 for a model of `components/synthetic`, whose VAE needs the digits.
    """
    with tempfile.TemporaryDirectory() as name:
        path = resolve(vdm, Store(Path(name).as_uri())).path
    num_frames, height, width = family_of(path).sizes(path).native
    return {"num_frames": num_frames, "height": height, "width": width, "dtype": _dtype(path)}


def _dtype(path: Path) -> str:
    if (path / RECORD).is_file():
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_available() else "float32"
