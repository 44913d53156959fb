"""What the report says of all samples: against lists of all lines, in one pass, and for the samples of a training."""

import random
from collections import Counter

from components.core import artifacts as a
from components.core.records import PieceCounts, Ref, Span, sha256
from components.report.provenance import _stored_bytes
from components.store.entries import Store
from tests.report.test_step import material_of, page_of
from tests.runner import changed


def many(run, count=300):
    """Lines of made-up samples, every third without a mask, two of them of one video."""
    draw, models = random.Random(4), list(run.priors.lines)
    for index in range(count):
        line, name = models[index // 2 % len(models)], sha256(b"%d" % index)[:16]
        about = {"id": name, "response": "a door ẞ opens ẞ" if index % 7 == 0 else "a door opens"}
        yield line.model_copy(
            update={
                "sample": line.sample.model_copy(update=about),
                "mask": line.mask if index % 3 else None,
                "confidence": line.confidence.model_copy(update={"value": draw.randrange(50) / 50}),
                "counts": PieceCounts(pieces=draw.randrange(5, 50), selected=draw.randrange(5)),
                "unread": [Span(field="response", start=7, end=9)] if index % 7 == 0 else [],
                "prior": Ref(path=f"p/{index}", sha256="0" * 64, bytes=index, task="t"),
            }
        )


def test_one_pass_finds_what_lists_of_all_lines_say(run):
    lines = list(many(run))
    found = material_of(run, priors=changed(run.priors, lines=lines), masked=20).survey
    ranked = sorted(lines, key=lambda line: sha256(line.sample.id.encode()))
    assert found.first.lines == ranked[: a.SMALLEST]
    assert found.masked.lines == [line for line in ranked if line.mask is not None][:20]
    by_value = sorted(lines, key=lambda line: (line.confidence.value, line.sample.id))
    assert found.ends == [by_value[-1], by_value[0]]
    assert sorted(found.confidence) == [line.confidence.value for line in by_value]
    counts = [line.piece_counts for line in lines]
    assert (found.pieces, found.kept) == (sum(c.pieces for c in counts), sum(c.selected for c in counts))
    assert (list(found.unread.texts), found.unread.samples) == (["ẞ"], sum(bool(line.unread) for line in lines))
    videos = {line.video.file.path: line.video.file.bytes for line in lines}
    assert (len(found.files["videos"]), found.files["videos"].bytes) == (len(videos), sum(videos.values()))
    assert (len(found.files["priors"]), found.files["priors"].bytes) == (300, sum(range(300)))


def from_maps(run, lines, **fields):
    """A tuned model that names the maps of its samples by digest, in two shards."""
    halves = changed(run.model, lines=lines).lines
    shards = []
    for index, part in enumerate((halves.within("", "8"), halves.within("8", "g"))):
        maps = a.VlmMaps(kind="VlmMaps", provenance={}, shard=f"{index}/2", lines=list(part))
        shards.append(run.store.publish(maps))
    return changed(run.model, lines=[], maps=shards, **fields)


def test_all_cuts_of_the_page_read_each_part_once(run, monkeypatch):
    """The digests are computed once as well, which takes long for a manifest of schema version 1."""
    reads, part = Counter(), Store.part
    monkeypatch.setattr(Store, "part", lambda store, blob: (reads.update([blob.sha256]), part(store, blob))[1])
    priors = run.store.manifest(run.store.publish(run.priors), a.PriorSet)
    material = material_of(run, priors=priors, model=from_maps(run, run.model.lines))
    for shown in (8, 2, 0):
        page_of(material, shown=shown)
    assert set(reads.values()) == {1}
    assert len(reads) == 2 + 1 + 2 * 2  # lines, videos and failures of the priors; both shards' lines and videos
    assert material.digests is material.digests


def test_samples_named_by_their_maps_are_those_of_version_1(run):
    """Without the videos that leaked, and without what was too long for the training."""
    lines, most = sorted(run.model.lines, key=lambda line: line.video.id), 100
    lines = [line.model_copy(update={"tokens": most + (index == 6)}) for index, line in enumerate(lines)]
    leaked = lines[2].video.id
    checked = {"training": 12, "benchmarks": {}, "pairs": [], "excluded": [leaked]}
    leakage = a.LeakageReport(kind="LeakageReport", provenance={}, **checked)
    run.store.publish(leakage)
    sft = run.model.provenance["sft"]
    sft = sft.model_copy(update={"params": {**sft.params, "max_tokens": most}})
    fields = {"leakage": leakage.counts(1), "provenance": {**run.model.provenance, "sft": sft}}
    trained = [line for line in lines if line.video.id != leaked and line.tokens == most]
    old, new = (material_of(run, model=m) for m in (changed(run.model, lines=trained), from_maps(run, lines, **fields)))
    assert len(trained) == len(lines) - 2
    assert sorted(new.frozen.coverage) == sorted(line.coverage for line in trained)
    assert new.before == old.before == {line.sample.id: line for line in trained}
    assert _stored_bytes(new) == _stored_bytes(old)
