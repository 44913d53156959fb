"""Values read ahead: in order, each once, no more than asked for at a time; errors where they are asked for."""

import threading

import pytest

from components.core.errors import DataError
from components.runtime.ahead import read_ahead


@pytest.mark.parametrize("count", [0, 1, 3])
def test_each_is_read_once_and_few_ahead(count):
    started, gate = [], threading.Semaphore(0)

    def read(key):
        started.append(key)
        if key != "a":
            gate.acquire()
        return key.upper()

    with read_ahead("abcdefg", read, count) as get:
        assert get("a") == "A"
        assert get("a") == "A"
        for _ in range(7):
            gate.release()
        assert get("b") == "B"
        assert get("b") == "B"
        assert len(set(started)) == len(started) <= 2 + count
        assert [get(key) for key in "cdefg"] == list("CDEFG")
    assert sorted(started) == list("abcdefg")


@pytest.mark.parametrize("count", [0, 2])
def test_keys_may_be_left_out_and_errors_come_where_they_are_asked_for(count):
    def read(key):
        if key == "c":
            raise DataError("no c", source="a test", remedy="none")
        return key

    with read_ahead("abcdef", read, count) as get:
        assert get("a") == "a"
        for _ in range(2):
            with pytest.raises(DataError, match="no c"):
                get("c")
        assert get("f") == "f"


def test_nothing_is_read_before_it_is_wanted_nor_after_the_end():
    started = []
    with read_ahead(range(100), lambda key: started.append(key), 2):
        pass
    assert not started
