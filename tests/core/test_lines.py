"""Lines of manifests in parts: what is written, cut, joined, read and refused."""

import gzip
import json

import pytest

from components.core import artifacts as a
from components.core import lines as core_lines
from components.core.errors import DataError
from components.core.lines import Lines, part_path, position, write_parts
from components.core.records import Clip, Failure, Ref, Sample, Video, canonical_json, sha256
from components.runtime.parameters import Shard
from components.store.entries import Store


def video(k):
    digest = sha256(f"video {k}".encode())
    file = Ref(path=f"videos/{digest}.mp4", sha256=digest, bytes=k, task="dataset_import")
    return Video(file=file, width=8, height=8, rotation=0, duration=1.0, times=[0.0, 0.5 + k / 1e6])


def sample(k, j=0, question="What moves?"):
    name = sha256(f"{k} {j}".encode())[:16]
    return Sample(id=name, uid=f"{k}.{j}", question=question, is_instruction=True, response="It.", answer="")


def item(k, j=0):
    text = {"prompt": "?", "reply": "A", "parsed": "A", "rule": "letter", "correct": True, "official_correct": True}
    return a.ItemResult(video=video(k).clip, sample=sample(k, j), key="0" * 32, frames=[0], **text)


def data(count, **fields):
    lines = [a.VideoLine(video=video(k), samples=[sample(k)]) for k in range(count)]
    return a.VideoDataset(kind="VideoDataset", provenance={}, lines=lines, **fields)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch):
    """Parts of 32 videos on average, or of 40 lines about none."""
    monkeypatch.setattr(core_lines, "_VIDEOS", 32)
    monkeypatch.setattr(core_lines, "_LINES", 40)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def test_what_is_read_is_what_was_written(store):
    made = data(300)
    found = store.manifest(store.publish(made), a.VideoDataset)
    assert list(found.lines) == sorted(made.lines, key=position) == list(found.lines)  # as often as one asks
    assert len(found.lines) == found.lines.videos == 300
    assert found == made
    assert found.digest == made.digest


def test_a_head_is_small_and_names_each_part_by_its_text(store, tmp_path):
    digest = store.publish(data(300))
    head = (tmp_path / "store" / f"manifests/{digest}.json").read_bytes()
    assert sha256(head) == digest
    assert len(head) < 8000
    (parts,) = (json.loads(head)[name]["parts"] for name in ("lines",))
    assert sum(part["count"] for part in parts) == 300
    for part in parts:
        texts = [
            gzip.decompress((tmp_path / "store" / part_path(part[name]["sha256"])).read_bytes())
            for name in ("lines", "videos")
        ]
        assert [sha256(text) for text in texts] == [part[name]["sha256"] for name in ("lines", "videos")]
        assert [len(text) for text in texts] == [part[name]["bytes"] for name in ("lines", "videos")]
        lines, videos = ([json.loads(line) for line in text.splitlines()] for text in texts)
        assert [line["video"] for line in lines] == sorted(line["video"] for line in lines)
        assert [one["file"]["sha256"] for one in videos] == [line["video"] for line in lines]
        assert (part["first"], part["last"]) == (lines[0]["video"], lines[-1]["video"])


def test_a_video_stands_once_however_many_samples_it_has(store):
    lines = [item(k, j) for k in range(40) for j in range(5)]
    made = a.EvalResult(kind="EvalResult", provenance={}, protocol="p", model="m", scores=[], lines=lines)
    found = store.manifest(store.publish(made), a.EvalResult)
    assert sum(part.videos.count for part in found.lines.parts) == found.lines.videos == 40
    assert all(part.count == 5 * part.videos.count for part in found.lines.parts)
    assert list(found.lines) == sorted(lines, key=position)
    assert {type(line.video) for line in found.lines} == {Clip}


def test_one_more_video_rewrites_one_part_and_shards_make_the_same_parts(store):
    """The cut depends on ids alone; a data set's parts are those of its shards but at their borders."""
    whole, more = data(400).lines.parts, data(401).lines.parts
    assert 4 <= len(whole) <= 30  # of 32 videos on average
    assert len(set(more) - set(whole)) == 1
    lines = list(data(400).lines)
    inside: list = []
    for low, high in (Shard(k, 3).bounds for k in range(3)):
        inside += write_parts([line for line in lines if low <= line.video.id < high], lambda text: None)
    assert len(set(inside) ^ set(whole)) <= 2 * 3
    assert tuple(write_parts(iter(lines), lambda text: None)) == whole


def test_a_shard_reads_the_parts_of_its_range_alone(store):
    found = store.manifest(store.publish(data(400)), a.VideoDataset)
    expected, read = {line.video.id for line in found.lines}, []
    found.lines.bind(lambda blob: read.append(blob.sha256) or store.part(blob))
    seen = []
    for k in range(16):
        low, high = Shard(k, 16).bounds
        read.clear()
        own = [line.video.id for line in found.lines.within(low, high)]
        assert all(int(name[:16], 16) * 16 >> 64 == k for name in own)
        overlapping = [part for part in found.lines.parts if part.first < high and low <= part.last]
        assert len(read) == 2 * len(overlapping) < 2 * len(found.lines.parts)
        seen += own
    assert len(seen) == len(expected) == 400
    assert set(seen) == expected


def test_lines_that_are_not_in_order_are_a_mistake_of_the_code(store):
    lines = sorted(data(3).lines, key=position)
    with pytest.raises(ValueError, match="behind"):
        store.lines(a.VideoLine, reversed(lines))
    with pytest.raises(ValueError, match="behind"):
        store.lines(a.VideoLine, [lines[0], lines[0]])


def test_lines_about_no_video_keep_their_order(store):
    failures = [Failure(unit=str(k), task="t", reason="r\u2028\n") for k in reversed(range(90))]
    made = data(1, left_out=Lines(Failure, failures))
    found = store.manifest(store.publish(made), a.VideoDataset)
    assert list(found.left_out) == failures
    assert len(found.left_out.parts) == 3


def test_equal_lines_are_equal_bytes_however_they_were_given(store):
    made, given = data(50), list(data(50).lines)
    again = a.VideoDataset(kind="VideoDataset", provenance={}, lines=given[::-1])
    assert again.to_bytes() == made.to_bytes()
    stored = a.VideoDataset(kind="VideoDataset", provenance={}, lines=store.lines(a.VideoLine, given))
    assert stored.to_bytes() == made.to_bytes()


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda file: file.unlink(), "missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-20]), "damaged"),
        (lambda file: file.write_bytes(b"no gzip"), "damaged"),
        (lambda file: file.write_bytes(gzip.compress(b"{}\n")), "other content"),
    ],
)
def test_a_missing_or_damaged_part_is_named_with_a_remedy(store, tmp_path, damage, match):
    found = store.manifest(store.publish(data(5)), a.VideoDataset)
    for blob in found.blobs():
        file = tmp_path / "store" / part_path(blob.sha256)
        before = file.read_bytes()
        damage(file)
        with pytest.raises(DataError, match=match) as error:
            list(found.lines)
        assert part_path(blob.sha256) in error.value.source
        assert "rerun_" in error.value.remedy
        file.write_bytes(before)
    assert len(list(found.lines)) == 5


def test_a_part_of_other_lines_is_refused(store):
    """The text is what the head names, but no such line: another version wrote it, or somebody by hand."""
    text = b'{"video":"0"}\n'
    store._put_part(text)
    blob = {"sha256": sha256(text), "bytes": len(text)}
    part = {"count": 1, "lines": blob, "videos": {**blob, "count": 1}, "first": "0", "last": "0"}
    lines = a.VideoDataset(kind="VideoDataset", provenance={}, lines={"parts": [part]}).bind(store.part).lines
    with pytest.raises(DataError, match="a line is no VideoLine"):
        list(lines)


def test_version_1_keeps_its_lines_inline_in_its_own_order_and_its_digest(store):
    given = list(data(20).lines)[::-1]
    raw = {"kind": "VideoDataset", "schema_version": "1", "provenance": {}, "left_out": []}
    before = canonical_json({**raw, "lines": [line.model_dump(mode="json") for line in given]})
    found = a.parse_manifest(before, a.VideoDataset, "an older store")
    assert found.to_bytes() == before
    assert list(found.lines) == sorted(given, key=position)
    assert store.publish(found) == found.digest == sha256(before)
    assert not list(found.blobs())


def test_a_list_of_lines_is_no_head_and_a_head_no_list():
    for wrong in ({"parts": [{"count": 1}]}, {"part": []}, [{"video": 1}], "lines"):
        raw = {"kind": "VideoDataset", "schema_version": "2", "provenance": {}, "lines": wrong}
        with pytest.raises(DataError, match="does not validate"):
            a.parse_manifest(canonical_json(raw), a.VideoDataset, "somewhere")
