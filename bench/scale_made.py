"""Fabricate a store of n samples, all of whose work is remembered: a few samples are computed, the others copy them.

`TEMPLATES` clips (120 frames, texts of about 50 pieces) go through the steps themselves, with a tiny video model of 48
heads. Every further sample is one of these clips with other bytes behind its end (an MP4 box that players skip), so
that its file decodes and is another video. Its entries are those of its template under the keys that the steps
declare, and its files are further names of the template's. Nothing of an entry's form is written here.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.scale_tasks import EXTRACTION, PARAMS, TASKS, World
from components.attention_capture.settings import reads as capture_reads
from components.core.records import Json, ModelId, Sample, canonical_json, sha256
from components.core.text import TextChoice
from components.dataset_import.sources import SourceVideo, file_key, read_source
from components.models.registry import resolve
from components.models.video.cogvideox import make_tiny
from components.runtime.declaration import declared
from components.store.address import open_backend
from components.store.entries import Store
from components.synthetic.scenes import PRESETS, write_set

TEMPLATES = 8
HEADS = 48
FRAMES = 120
STEPS = ("dataset_import", "ddim_inversion", "attention_capture", "token_selection", "vlm_attention")
WORKED = STEPS[1:]
INSTRUCTIONS = ["Describe the motion in this video in detail."]
QUESTION = "where does the other object go then"
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "purple", "orange")
TEXT = (
    "{caption} then the camera stops and the scene stays still and the {colour} square turns slowly to the left and "
    "passes near the center of the frame and one small object falls behind it"
)


@dataclass(frozen=True)
class Template:
    """A sample that was computed: its file, its text, where its files lie, its entries by step."""

    content: bytes
    text: str
    store: Path
    entries: Mapping[str, Json]


def wide_model(folder: Path) -> None:
    """Write a tiny video model whose transformer has 48 heads, unless it is there."""
    if folder.is_dir():
        return
    import torch
    from diffusers import CogVideoXTransformer3DModel

    draft = make_tiny(folder.with_name(f".{folder.name}"))
    config = dict(CogVideoXTransformer3DModel.load_config(draft / "transformer"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config |= {"num_attention_heads": HEADS, "num_layers": 1}
        CogVideoXTransformer3DModel.from_config(config).save_pretrained(draft / "transformer")
    draft.rename(folder)


def templates(root: Path) -> list[Template]:
    """Compute the templates in `<root>/template`, each time: a store that was made of others is no longer valid."""
    shutil.rmtree(root / "template", ignore_errors=True)
    wide_model(root / "wide-cogvideox")
    write_set(root / "bench", preset="bench", count=12, seed=2)
    write_set(root / "scenes", preset="scenes", count=TEMPLATES, seed=1, num_frames=FRAMES)
    annotations, videos = (root / "scenes" / path for path in PRESETS["scenes"])
    rows = [json.loads(line) for line in annotations.read_text().splitlines()]
    contents = [(videos / row["video_path"]).read_bytes() for row in rows]
    texts = [
        TEXT.format(caption=row["motion_caption"], colour=colour) for row, colour in zip(rows, COLOURS, strict=True)
    ]
    world = World(root, "template", root.as_uri(), shards=1)
    add_to_source(world, contents, texts)
    world.run([*EXTRACTION[1:], TASKS["vlm_attention"]])
    store = world.folder / "store"
    return [
        Template(content, text, store, _entries(store, sha256(content)))
        for content, text in zip(contents, texts, strict=True)
    ]


def _entries(store: Path, video: str) -> dict[str, Json]:
    """Return the entries of a video and of its one sample by step."""
    found = {step: [json.loads(file.read_bytes()) for file in (store / step).glob("*/entry.json")] for step in STEPS}
    (imported,) = (one for one in found["dataset_import"] if one["files"]["video"]["sha256"] == video)
    (inverted,) = (one for one in found["ddim_inversion"] if one["unit"] == video)
    (captured,) = (one for one in found["attention_capture"] if one["reads"]["trajectory"] == inverted["key"])
    (selected,) = (one for one in found["token_selection"] if one["unit"] == captured["unit"])
    (mapped,) = (one for one in found["vlm_attention"] if one["unit"] == captured["unit"])
    return dict(zip(STEPS, (imported, inverted, captured, selected, mapped), strict=True))


def digest(made: Sequence[Template]) -> str:
    """Return what names everything that is made of these templates; when their source was written is no part of it."""
    parts = []
    for one in made:
        imported, *worked = (one.entries[step] for step in STEPS)
        parts.append([sha256(one.content), one.text, imported["numbers"], imported["version"], *worked])
    return sha256(canonical_json(parts))


def another(content: bytes, number: int) -> bytes:
    """Return an MP4 file with a box behind its end that no player reads: another file of the same frames."""
    text = f"{number:024d}".encode()
    return content + (8 + len(text)).to_bytes(4, "big") + b"free" + text


def add_to_source(world: World, contents: Sequence[bytes], texts: Sequence[str], first: int = 0) -> None:
    """Write videos and their rows, numbered from `first` on."""
    videos = world.folder / "source" / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    with (videos.parent / "train.jsonl").open("a") as rows:
        for number, (content, text) in enumerate(zip(contents, texts, strict=True), start=first):
            (videos / f"{number:06d}.mp4").write_bytes(content)
            rows.write(json.dumps({"video": f"{number:06d}.mp4", "question": QUESTION, "response": text}) + "\n")


@contextmanager
def extended(world: World, contents: Sequence[bytes], texts: Sequence[str], first: int) -> Iterator[None]:
    """Let the source hold further videos for the length of the block."""
    folder = world.folder / "source"
    rows = (folder / "train.jsonl").read_bytes()
    try:
        add_to_source(world, contents, texts, first)
        yield
    finally:
        (folder / "train.jsonl").write_bytes(rows)
        for number in range(first, first + len(contents)):
            (folder / "videos" / f"{number:06d}.mp4").unlink(missing_ok=True)


def fabricate(world: World, made: Sequence[Template], count: int, uris: Sequence[str]) -> None:
    """Write source and store of `count` samples; `uris` are the root's addresses, a folder's first."""
    chosen = [made[number % len(made)] for number in range(count)]
    contents = [another(template.content, number) for number, template in enumerate(chosen)]
    add_to_source(world, contents, [template.text for template in chosen])
    for uri in uris:
        copies = Copies(replace(world, uri=uri))
        for video in read_source(copies.world.shared["source"], "auto", INSTRUCTIONS).videos:
            number = int(Path(video.path).stem)
            copies.imported(chosen[number], video, contents[number])
            if uri == uris[0]:
                name = sha256(contents[number])
                copies.worked(chosen[number], name, video.rows[0].sample(name))


class Copies:
    """Writes a template's entries for another video."""

    def __init__(self, world: World) -> None:
        self.world, self.folder, given = world, world.folder / "store", world.shared
        store, form = Store(self.folder.as_uri()), declared("plan").form("motion_enhancer")
        self.models: dict[str, ModelId] = {role: resolve(given[role], store).id for role in ("vdm", "vlm")}
        shared = form.shared(**{name: given[name] for name in form.shared.model_fields if name in given})
        self.text: TextChoice = given["text"]
        self.steps = {name: declared(name) for name in STEPS}
        self.params = {name: step.params(**PARAMS.get(name, {})) for name, step in self.steps.items()}
        self.shared = {name: step.shared_result(shared) for name, step in self.steps.items() if name in WORKED}
        self.source = open_backend(given["source"]).uri

    def imported(self, template: Template, video: SourceVideo, content: bytes) -> None:
        """Write the entry of a video's import, and the video."""
        reads, name = video.reads(self.source), sha256(content)
        path = f"videos/{name}{Path(video.path).suffix}"
        if not (self.folder / path).exists():
            _link(f"{self.world.folder}/source/{video.path}", f"{self.folder}/{path}")
        file = {"path": path, "sha256": name, "bytes": len(content)}
        key, unit = file_key(self.steps["dataset_import"], reads), reads["video"]["address"]
        self._write(template, "dataset_import", key, unit, reads, {"video": file})

    def worked(self, template: Template, video: str, sample: Sample) -> None:
        """Write the entries of everything that is computed of a video and its sample."""
        trajectory = self._copy(template, "ddim_inversion", video, {"video": video}, "vdm")
        reads = capture_reads(trajectory, sample, self.text)
        attention = self._copy(template, "attention_capture", sample.id, reads, "vdm")
        heads = template.entries["token_selection"]["reads"]["heads"]
        reads = {"attention": attention, "heads": heads}
        prior = self._copy(template, "token_selection", sample.id, reads)
        reads = {"video": video, "sample": sample.id, "prior": prior}
        self._copy(template, "vlm_attention", sample.id, reads, "vlm")

    def _copy(self, template: Template, step: str, unit: str, reads: Json, *roles: str) -> str:
        """Copy an entry under its key, and its files but for those that scratch may have lost; return the key."""
        declaration, models = self.steps[step], {role: self.models[role] for role in roles}
        key = declaration.key(self.params[step], self.shared[step], models, reads)
        files = {}
        for role, file in template.entries[step]["files"].items():
            place, _, name = file["path"].split("/")
            files[role] = {**file, "path": f"{place}/{key}/{name}"}
            if place != "scratch":
                _link(f"{template.store}/{file['path']}", f"{self.folder}/{files[role]['path']}")
        self._write(template, step, key, unit, reads, files)
        return key

    def _write(self, template: Template, step: str, key: str, unit: str, reads: Json, files: Json) -> None:
        entry = {**template.entries[step], "key": key, "unit": unit, "reads": reads, "files": files}
        folder = f"{self.folder}/{step}/{key}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/entry.json", "wb") as file:
            file.write(canonical_json(entry))


def _link(file: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.link(file, target)
