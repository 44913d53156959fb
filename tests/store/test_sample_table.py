"""An exported prior set as a table: what pandas, DuckDB and `datasets` read, and how much memory moving it takes."""

import datasets
import duckdb
import pandas
import pytest

from bench.export import fabricate, measured
from components.core.artifacts import PriorSet
from components.prior_set.reading import read_priors
from components.store import sample_table
from components.store.entries import Store
from components.store.tensors import unpack
from components.store.transfer import references
from tests.command import motion_enhancer
from tests.vlm_attention import made

COUNT = 2000


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A set of many fabricated samples: its store, its digest, where it is exported, and what the export took."""
    tmp = tmp_path_factory.mktemp("large")
    store = Store((tmp / "store").as_uri())
    digest = fabricate(store, COUNT)
    return store, digest, tmp / "priors", measured("export", f"sha256:{digest}", tmp / "priors", store.uri)


def test_the_table_says_what_the_lines_say(tmp_path):
    """Of real clips with text tokens inline, and compared with what `read_priors` reads."""
    store = Store((tmp_path / "store").as_uri())
    lines = made.prior_lines(tmp_path / "set", tmp_path / "store", count=3)
    part = {"first": 2, "count": 9, "offset": 0.5}
    lines[1] = lines[1].model_copy(
        update={"video": lines[1].video.model_copy(update={"part": made.a.records.Part(**part)})}
    )
    made.prior_set(tmp_path / "artifact", lines, store.uri)
    assert motion_enhancer("export", tmp_path / "artifact", tmp_path / "priors", "--store", store.uri) == 0
    table = pandas.read_parquet(tmp_path / "priors/samples.parquet").to_dict("records")
    manifest = store.opened(tmp_path / "artifact", PriorSet)
    for row, line, prior in zip(table, manifest.lines, read_priors(tmp_path / "priors"), strict=True):
        said = {name: row[name] for name in ("sample", "uid", "question", "response", "source", "weight")}
        assert said == {
            **{"sample": prior.sample.id, "uid": prior.sample.uid, "question": prior.sample.question},
            **{"response": prior.sample.response, "source": "", "weight": 1.0},
        }
        assert tmp_path / "priors" / row["video"] == prior.video
        assert prior.video.is_file()
        assert (row["video_id"], row["video_frames"]) == (line.video.id, len(line.video.times))
        assert (row["width"], row["height"], row["duration"]) == (64, 64, line.video.duration)
        assert row["first_frame"] == (2 if line.video.part else None) or pandas.isna(row["first_frame"])
        density = unpack((tmp_path / "priors" / row["prior"]).read_bytes())["prior"]
        assert density.equal(prior.map_TFHW)
        assert density.shape == (row["selected_count"], row["frames"], row["rows"], row["cols"])
        assert (row["per_frame"], row["statistics"]) == (line.per_frame.path, line.statistics.path)
        assert [tuple(cell.values()) for cell in row["times"]] == prior.grid.times
        assert tuple(row["box"][edge] for edge in ("top", "bottom", "left", "right")) == prior.grid.box
        assert list(row["heads"]) == line.heads
        assert row["confidence"] == prior.confidence
        assert (row["concentration"], row["dynamics"], row["truncated"]) == (0.5, 0.5, 0)
        assert [dict(piece) for piece in row["pieces"]] == [piece.model_dump() for piece in prior.pieces]
        assert row["piece_count"] == len(prior.pieces)
        assert set(row) == set(sample_table.COLUMNS)
    assert len(table) == 3


def test_datasets_opens_the_folder_itself(large, tmp_path):
    """By the card's header; the other files of the folder are no data of it."""
    found = datasets.load_dataset(str(large[2]), cache_dir=str(tmp_path))
    assert {name: len(split) for name, split in found.items()} == {"train": COUNT}
    split = found["train"]
    assert set(split.column_names) == set(sample_table.COLUMNS)
    assert split.features["weight"].dtype == "float64"
    assert len(split[5]["pieces"]) == split[5]["piece_count"] == 50
    assert split[5]["pieces"][3] | {"standardized": 0} == {
        **{"index": 3, "token": "▁w3", "field": "response", "start": 9, "end": 11},
        **{"score": 3 / 7, "standardized": 0, "selected": False},
    }


def test_duckdb_counts_in_it(large):
    file = large[2] / "samples.parquet"
    rows = duckdb.sql(
        f"select source, count(*), sum(selected_count), max(dynamics) from '{file}' group by 1 order by 1"
    )
    assert rows.fetchall() == [("a", 1000, 25_000, 0.9995), ("b", 1000, 25_000, 0.999)]
    words = f"select count(*) from (select unnest(pieces) as piece from '{file}') where piece.selected"
    assert duckdb.sql(words).fetchall() == [(50_000,)]
    groups = duckdb.sql(f"select max(row_group_num_rows) from parquet_metadata('{file}')").fetchall()
    assert groups == [(512,)]


def test_memory_is_a_part_of_the_set_not_the_set(large, tmp_path):
    """Bounds as of a set of any size; at 25 000 samples `python -m bench.export` prints what is used."""
    _, digest, folder, exported = large
    assert exported.peak < 300 << 20
    imported = measured("import", folder, (tmp_path / "other").as_uri())
    assert imported.peak < 300 << 20
    read = measured("read_priors", folder, COUNT)
    assert read.peak - read.before < 100 << 20
    other = Store((tmp_path / "other").as_uri())
    opened = other.manifest(digest, PriorSet)
    assert (opened.digest, len(opened.lines)) == (digest, COUNT)
    assert sum(other.present(ref) for ref in references(opened.lines)) == 5 * COUNT
