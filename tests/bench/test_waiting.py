"""The bench of a waiting model on few short clips: it runs, and reading ahead writes the same files."""

from bench import waiting


def test_rows(monkeypatch):
    monkeypatch.setattr(waiting, "CLIPS", 3)
    monkeypatch.setattr(waiting, "SECONDS", 2)
    alone, ahead, pools = waiting.rows(pairs=1)  # raises where the two runs did not write the same files
    assert 0 < alone.value < 1
    assert 0 <= ahead.value < 1
    assert pools.value > 0
