"""What the steps up to token_selection will do with the sources: what is remembered, what is to compute and to store.

Exact through attention_capture, whose keys follow from the sources, and of token_selection where every sample's maps
are there to choose heads from; else the number of samples is an upper bound.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from components.attention_capture.settings import reads
from components.benchmarks.rows import Row
from components.core.errors import DataError
from components.core.progress import track
from components.core.records import Head, Json, canonical_json, sha256
from components.core.text import conditioning
from components.dataset_import.checks import Lost, lost_in, repeated_in
from components.dataset_import.clips import NO_MOTION
from components.dataset_import.clips import clip as clip_of
from components.dataset_import.decode import fetched
from components.dataset_import.recipe import read_training
from components.dataset_import.sources import Source, SourceVideo, file_key, index_key
from components.head_selection.settings import check_selection
from components.models.registry import ResolvedModel
from components.models.video import family_of
from components.models.video.interface import VideoFamily, unread_characters
from components.plan import page
from components.plan.ablations import Counted, fresh
from components.plan.cost import PlannedVideo, Shown, StepEstimate, estimate, unlike_training
from components.plan.known import Known, Present
from components.plan.limits import Task
from components.plan.seeing import Text
from components.plan.shared import MotionPriors
from components.runtime.context import Context
from components.runtime.declaration import declared
from components.runtime.parameters import StepParams
from components.store.address import open_backend
from components.store.entries import Store
from components.store.failures import SHOWN, write_list
from components.store.packed import in_batches
from components.token_selection.members import Members, member_reads, unit_reads

if TYPE_CHECKING:
    from components.head_selection.scores import HeadStatistics

log = logging.getLogger(__name__)
NO_VIDEO = "0" * 64  # a sample's text needs none
LOOKUPS = 16  # requests under way; so many downloads at most lie on the disk


def _joined(sources: Sequence[Source]) -> list[tuple[Source, SourceVideo]]:
    """Return the videos of all sources with the source that names them first, a file that several name once."""
    found: dict[str, tuple[Source, SourceVideo]] = {}
    for source in sources:
        for video in source.videos:
            first, known = found.get(address := f"{source.root}/{video.path}", (source, replace(video, rows=())))
            found[address] = (first, replace(known, rows=(*known.rows, *video.rows)))
    return list(found.values())


@dataclass(frozen=True)
class _Reading:
    """A text as the video model reads it: its tokens, the characters that none stands for, and all characters."""

    tokens: int
    unread: int
    characters: int


@dataclass(frozen=True)
class _Statistics:
    """The statistics of captures, read anew each time."""

    known: Known
    keys: Sequence[str]
    readers: int

    def __iter__(self) -> Iterator[HeadStatistics]:
        from components.head_selection.scores import HeadStatistics
        from components.store.tensors import unpack

        for sample, data in self.known.files("statistics", self.keys, self.readers):
            yield HeadStatistics.from_tensors(unpack(data), sample)


def imported(store: Store, sources: Sequence[Source]) -> Known:
    """Return which files of these sources are imported."""
    return Known(store, "dataset_import", [index_key(declared("dataset_import"), sources)])


def kept(context: Context[StepParams, Any], lost: Sequence[Lost]) -> str:
    """Write what is lost into the store where it is too long for a page; return where, or nothing."""
    return write_list(context.store, context.task, as_lines(lost)) if len(lost) > SHOWN else ""


def as_lines(lost: Iterable[Lost]) -> list[str]:
    """Return what is lost, one line each."""
    return [f"{item.unit}: {item.reason}" for item in lost]


def _named(row: Row) -> str:
    """Return what the page calls a row's text."""
    return f"{row.uid} ({row.where})"


class Extraction:
    """What the steps up to token_selection will do with the sources."""

    def __init__(
        self,
        context: Context[StepParams, Any],
        shared: MotionPriors,
        params: Mapping[str, Any],
        model: ResolvedModel,
        counted: Counted | None = None,
    ) -> None:
        self.context, self.shared, self.store = context, shared, context.store
        self.params, self.model, self.counted = params, model, counted
        if params["attention_capture"].keep == "selected":
            check_selection(params["attention_capture"].selection, params["head_selection"], shared.head_ratio)
        given = params["dataset_import"]
        instructions, patience = given.template_instructions, self.store.patience
        self.sources = read_training(shared.source, given.layout, instructions, patience)
        self.videos = _joined(self.sources)
        self.known: dict[str, Known] = {}
        self.inverted: Present  # while the videos are looked at
        self.steps: list[StepEstimate] = []
        self.whole: list[StepEstimate] = []  # as if nothing were remembered
        self.texts: list[Text] = []  # samples that the VLM is trained on
        self.members = Members(context.store, params["token_selection"].ensemble_with, member_reads)
        self.lacking = Counter[str]()  # samples that the ensemble's other selections have not, by digest
        self.readings: dict[str, _Reading] = {}  # by the row's name; without texts that conditioning refuses

    def forecast(self) -> str:
        """Return the page's part about them."""
        inversion, capture = self.params["ddim_inversion"], self.params["attention_capture"]
        family = family_of(self.model.path)
        family.check(inversion.num_frames)
        self._read_texts(family)
        self.known["dataset_import"] = imported(self.store, self.sources)
        self.inverted = Present(*self._copies("ddim_inversion"))
        self.known["attention_capture"] = Known(*self._copies("attention_capture"))
        with ThreadPoolExecutor(LOOKUPS) as pool:
            looked = list(track(in_batches(pool, self._planned, self.videos), "Plan", len(self.videos)))
        del self.known["dataset_import"], self.inverted  # frees their entries
        videos = [video for video in looked if video is not None]
        for (_, named), found in zip(self.videos, looked, strict=True):
            if found is not None and family.frames.largest(min(found.frames, inversion.num_frames)):
                self.texts += [Text(found.name, found.shown, row) for row in named.rows]
        held = [video for video in videos if family.frames.largest(min(video.frames, inversion.num_frames))]
        files = {(one.root, file.path): file.size for one, video in self.videos if (file := video.file)}
        taken = sum(files.values())
        self.lacking = Counter(digest for one in held for name in one.samples for digest in self.members.lacking(name))
        args = inversion, capture, self.shared
        selected = self._selected(held)
        if self.counted is not None:
            self.whole = estimate(self.model.path, [fresh(video) for video in videos], *args, None)
            videos = [self._marked(*named, found) for named, found in zip(self.videos, looked, strict=True) if found]
        self.steps = estimate(self.model.path, videos, *args, selected, taken)
        missing, repeated = ([item for one in self.sources for item in find(one)] for find in (lost_in, repeated_in))
        lost = [*missing, *page.unfit(videos, family.frames), *repeated]
        size = inversion.num_frames, inversion.height, inversion.width
        if unlike := unlike_training(family.sizes(self.model.path), self.model.id.name, *size):
            log.warning("%s", unlike)
        return page.extraction(self.sources, self.steps, unlike, lost, kept(self.context, lost), self._texts())

    def tasks(self) -> list[Task]:
        """Return what the steps on a GPU take in the pods of this run."""
        return [
            Task(one.step, "shard", one.hours, len(self.shared.shards), one.to_compute, peak=one.peak)
            for one in self.steps
            if one.hours is not None
        ]

    def kept(self, priors: bool) -> float:
        """Return the bytes of maps and, if they are new, of priors that are to be written."""
        capture, selection = self.steps[2:]
        count = (capture.remembered or 0) + capture.to_compute
        maps = (capture.stored_bytes or 0.0) * capture.to_compute / max(1, count)
        return maps + (selection.stored_bytes or 0.0) * priors

    def _marked(self, source: Source, video: SourceVideo, found: PlannedVideo) -> PlannedVideo:
        """Return a video with what earlier variants do for it; before its import a video is known by its address."""
        assert self.counted is not None
        imported = video.reads(source.root)
        name = sha256(canonical_json([imported, video.part]))
        trajectory, captured = self._key("ddim_inversion", {"video": name}), []
        for sample in [row.sample(name) for row in video.rows]:
            try:
                captured.append(self._key("attention_capture", reads(trajectory, sample, self.shared.text)))
            except DataError:  # raised by the step itself, with the sample's name
                captured.append(sample.id)
        return self.counted.mark(found, imported, trajectory, captured)

    def _read_texts(self, family: VideoFamily) -> None:
        """Read every text with the video model's tokenizer."""
        tokenizer, length = family.tokenizer(self.model.path), family.sizes(self.model.path).text_tokens
        for row in (row for _, video in self.videos for row in video.rows):
            try:
                text, _ = conditioning(row.sample(NO_VIDEO), self.shared.text)
            except DataError:  # raised by the step itself, with the sample's name
                continue
            pieces = family.pieces(tokenizer, text, length)
            self.readings[_named(row)] = _Reading(sum(one.known for one in pieces), *unread_characters(pieces))

    def _tokens(self, row: Row) -> int:
        """Return how many tokens carry a row's text; 0 of one that is refused."""
        return self.readings[name].tokens if (name := _named(row)) in self.readings else 0

    def _texts(self) -> page.Texts:
        """Return how many texts the video model cannot read."""
        most = self.params["attention_capture"].max_unreadable
        shares = {name: one.unread / max(1, one.characters) for name, one in self.readings.items()}
        worst = sorted((name for name, share in shares.items() if share > most), key=lambda name: (-shares[name], name))
        return page.Texts(len(shares), sum(0 < share <= most for share in shares.values()), worst)

    def _planned(self, named: tuple[Source, SourceVideo]) -> PlannedVideo | None:
        """Return what is known of a video without decoding it: from its remembered import, else from its header."""
        source, video = named
        if video.file is None:
            return None
        name, address = source.unit(video.path), video.reads(source.root)
        tokens = [self._tokens(row) for row in video.rows]
        entry = self.known["dataset_import"].entry(file_key(declared("dataset_import"), address))
        if entry is None:
            shown, problem = self._header(source, video, address)
            return PlannedVideo(name, shown.frames if shown else 0, tokens, problem=problem, shown=shown)
        try:
            clip = clip_of(entry, video.part, "dataset_import", name)
        except DataError as error:
            return PlannedVideo(name, 0, tokens, problem=error.problem)
        if clip.kind == "image":
            return PlannedVideo(name, 0, tokens, problem=NO_MOTION)
        digest = clip.id
        trajectory = self._key("ddim_inversion", {"video": digest})
        captured: list[str] = []
        samples = [row.sample(digest) for row in video.rows]
        for sample in samples:
            try:
                conditioning(sample, self.shared.text)
            except DataError:  # raised by the step itself, with the sample's name
                captured.append("")
                continue
            key = self._key("attention_capture", reads(trajectory, sample, self.shared.text))
            captured.append(key if key in self.known["attention_capture"] else "")
        inverted = trajectory in self.inverted
        shown = Shown.of(clip)
        names = [sample.id for sample in samples]
        return PlannedVideo(name, shown.frames, tokens, True, inverted, captured, names, shown=shown)

    def _key(self, name: str, reads: Json) -> str:
        step = declared(name)
        models = {"vdm": self.model.id} if name in ("ddim_inversion", "attention_capture") else {}
        if name == "token_selection":
            models = self.members.models
        return step.key(self.params[name], step.shared_result(self.shared), models, reads)

    def _copies(self, step: str) -> tuple[Store, str, list[str]]:
        """Return a step, and where the copies lie that its tasks of this run keep of what they remember."""
        scopes: list[Json] = [{"shard": shard} for shard in self.shared.shards]
        return self.store, step, [self._key(step, {"scope": scope}) for scope in scopes]

    def _selected(self, videos: list[PlannedVideo]) -> int | None:
        """Count samples whose token selection is remembered, for the heads that the stored statistics choose.

        None where a sample is not captured yet.
        """
        captured = [key for video in videos for key in (video.captured if video.imported else [""])]
        samples = [name for video in videos for name in video.samples]
        if not captured or not all(captured):
            return None
        try:
            chosen = zip(samples, captured, self._heads(captured), strict=True)
            own = ((sample, {"attention": key, "heads": heads}) for sample, key, heads in chosen)
            there = ((sample, read) for sample, read in own if not self.members.lacking(sample))  # others are left out
            keys = [self._key("token_selection", unit_reads(read, self.members.of(sample))) for sample, read in there]
        except DataError:  # damage: the step that reads it raises this, with the rerun that computes it again
            return None
        del self.known["attention_capture"]  # frees the statistics
        known = Present(*self._copies("token_selection"))
        with ThreadPoolExecutor(LOOKUPS) as pool:
            return sum(in_batches(pool, known.__contains__, keys))

    def _heads(self, captured: list[str]) -> Iterator[list[Head]]:
        """Yield each sample's heads as head_selection will choose them, or its capture has chosen them."""
        from components.head_selection.scores import choose_all

        params = self.params["head_selection"]
        if self.params["attention_capture"].keep == "selected":
            for entry in map(self.known["attention_capture"].entry, captured):
                assert entry is not None
                yield entry.numbers["heads"]
            return
        statistics = _Statistics(self.known["attention_capture"], captured, params.readers)
        for choice in choose_all(statistics, head_ratio=self.shared.head_ratio, **params.result()):
            yield choice.named

    def _header(self, source: Source, video: SourceVideo, reads: Json) -> tuple[Shown | None, str]:
        """Return what the container's header says, remembered; or None and why, not remembered.

        What lies in a zip file is unpacked for this.
        """
        from components.media.video import header

        assert video.file is not None
        key = sha256(canonical_json(reads))[:32]
        if (
            entry := self.store.entry("plan", key, miss_if_damaged=True)
        ) is not None and "duration" in entry.numbers:  # an older one has frames
            return Shown(**entry.numbers), ""
        # one of its own: threads cannot share the folder of its downloads
        backend, path = open_backend(source.root, self.store.patience), None
        try:
            with fetched(backend, video.file.path, video.files, self.store.patience) as path:
                found = header(path)
        except DataError as error:
            return None, error.problem.replace(str(path), video.path)
        if found.kind == "image":
            return None, NO_MOTION
        shown = Shown(found.num_frames, found.height, found.width, found.duration)
        self.context.work(key).finish(video.path, reads, shown.header)
        return shown, ""
