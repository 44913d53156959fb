"""Files that several threads borrow at a time: one download, which stays until the last of them is done."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.core.errors import DataError
from components.core.records import Ref, sha256
from components.store.entries import Store
from components.store.s3 import MinioBackend
from tests.s3_server import s3_server

DATA = bytes(range(256)) * 4000


@pytest.fixture
def borrowed(monkeypatch):
    """A store on S3, a reference to a file in it, and the downloads that were made."""
    with s3_server("main"):
        store, downloads, download = Store("minio://main/store"), [], MinioBackend._download

        def slow(self, path, target):
            downloads.append(path)
            time.sleep(0.05)
            return download(self, path, target)

        monkeypatch.setattr(MinioBackend, "_download", slow)
        store.backend.put("videos/a.mp4", DATA)
        yield store, Ref(path="videos/a.mp4", sha256=sha256(DATA), bytes=len(DATA), task="dataset_import"), downloads


def test_threads_share_a_download_and_the_last_one_drops_it(borrowed):
    store, ref, downloads = borrowed
    both, first_done = threading.Barrier(2), threading.Event()

    def hold(last):
        with store.borrowed(ref) as path:
            both.wait()
            if last:
                first_done.wait()
            read = path.read_bytes()
        first_done.set()
        return path, read

    with ThreadPoolExecutor(2) as pool:
        (path, one), (_, other) = pool.map(hold, [False, True])
    assert one == other == DATA
    assert downloads == ["videos/a.mp4"]
    assert not path.exists()
    with store.borrowed(ref) as path:
        assert path.read_bytes() == DATA
    assert len(downloads) == 2


def test_a_file_that_cannot_be_fetched_is_no_loan(borrowed):
    store, ref, _ = borrowed
    for _ in range(2):
        with pytest.raises(DataError, match="has other content"), store.borrowed(ref.model_copy(update={"bytes": 1})):
            pass
    with store.borrowed(ref) as path:
        assert path.read_bytes() == DATA
    assert not store._loans
