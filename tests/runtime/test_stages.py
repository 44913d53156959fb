"""Units in stages: what runs beside what, how far ahead and behind, and that nobody sees another order than one by one.

Stages are held by semaphores, so that what is asserted does not depend on how fast a machine is.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.core.errors import DataError, ParameterError, TryAgainError
from components.runtime.stages import Spent, Stages, in_stages

UNITS = list("abcdef")


class Line:
    """Stages that note what they do, and wait for `gates` (by stage and unit) before they go on."""

    def __init__(self, prefetch, errors=(), gates=(), shared=None):
        self.log, self.errors = [], dict(errors)
        self.gates = {name: threading.Event() for name in gates}
        self.reached = {f"{stage} {unit}": threading.Event() for stage in ("read", "made", "kept") for unit in UNITS}
        self.stages = Stages(
            prepare=lambda unit: self.at("read", unit, unit.upper()),
            compute=lambda unit, inputs: self.at("made", unit, inputs() * 2),
            write=lambda unit, made, folder: self.at("kept", unit, made),
            prefetch=prefetch,
            shared=shared,
        )
        self.spent = Spent()

    def at(self, stage, unit, value):
        name = f"{stage} {unit}"
        self.reached[name].set()
        if name in self.gates:
            assert self.gates[name].wait(20), name
        if name in self.errors:
            raise self.errors[name]
        self.log.append(name)
        return value

    def __iter__(self):
        def finish(place, made):
            return self.stages.write(UNITS[place], made, None)

        return in_stages(UNITS, self.stages, finish, self.spent)


def bad(unit):
    return DataError(f"bad {unit}", source="a test", remedy="none")


def wait(event):
    assert event.wait(20)


def seen(found):
    return [(unit, item.problem if isinstance(item, DataError) else item) for unit, item in found]


def test_one_at_a_time_is_one_at_a_time():
    line = Line(0)
    assert list(line) == [(unit, unit.upper() * 2) for unit in UNITS]
    assert line.log == [f"{stage} {unit}" for unit in UNITS for stage in ("read", "made", "kept")]


@pytest.mark.parametrize("prefetch", [1, 2, 3])
def test_the_next_are_read_while_one_is_computed(prefetch):
    """As many as `prefetch`, and not one more."""
    line = Line(prefetch, gates=["made b"])
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(list, line)
        wait(line.reached["made b"])
        wait(line.reached[f"read {UNITS[1 + prefetch]}"])
        assert [unit for unit in UNITS if line.reached[f"read {unit}"].is_set()] == UNITS[: 2 + prefetch]
        line.gates["made b"].set()
        assert whole.result(20) == list(Line(0))


@pytest.mark.parametrize("prefetch", [1, 2, 3])
def test_the_last_are_written_while_one_is_computed(prefetch):
    """As many as `prefetch`; behind one more nothing is computed until the first is written."""
    line = Line(prefetch, gates=[f"kept {unit}" for unit in UNITS])
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(list, line)
        wait(line.reached[f"made {UNITS[prefetch]}"])
        wait(line.reached[f"kept {UNITS[prefetch - 1]}"])
        assert not line.reached[f"made {UNITS[1 + prefetch]}"].wait(0.05)
        line.gates["kept a"].set()
        wait(line.reached[f"made {UNITS[1 + prefetch]}"])
        for gate in line.gates.values():
            gate.set()
        assert whole.result(20) == list(Line(0))


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_failures_come_in_the_units_order_whatever_stage_they_are_of(prefetch):
    errors = {"read b": bad("b"), "kept c": bad("c"), "made e": bad("e")}
    line = Line(prefetch, errors)
    assert seen(line) == [("a", "AA"), ("b", "bad b"), ("c", "bad c"), ("d", "DD"), ("e", "bad e"), ("f", "FF")]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("stage", ["read", "made", "kept"])
@pytest.mark.parametrize("error", [TryAgainError, ParameterError, ValueError, KeyboardInterrupt])
def test_another_error_is_raised_in_its_turn_behind_what_came_before(prefetch, stage, error):
    made = error("the end") if error in (ValueError, KeyboardInterrupt) else error("the end", source="x", remedy="y")
    line, found = Line(prefetch, {f"{stage} c": made, "made b": bad("b")}), []
    with pytest.raises(error, match="the end"):
        found.extend(line)
    if (stage, error) != ("made", KeyboardInterrupt):  # which is raised at once
        assert seen(found) == [("a", "AA"), ("b", "bad b")]
    assert "kept a" in line.log
    assert "kept c" not in line.log
    assert "made f" not in line.log or (stage, prefetch) == ("kept", 3)


def test_of_two_errors_the_earlier_units_is_raised():
    """A write of `a` that fails late, and `b` that fails at once, as one by one `a` would have been first."""
    errors = {
        "kept a": TryAgainError("a", source="x", remedy="y"),
        "made b": ParameterError("b", source="x", remedy="y"),
    }
    line = Line(2, errors, gates=["kept a"])
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(list, line)
        wait(line.reached["made b"])
        assert not line.reached["made c"].wait(0.05)  # it would be lost
        line.gates["kept a"].set()
        with pytest.raises(TryAgainError, match="a"):
            whole.result(20)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_units_in_a_row_share_what_is_read(prefetch):
    line = Line(prefetch, shared=lambda unit: unit in "cd")
    assert list(line) == [(unit, made * 2) for unit, made in zip(UNITS, "AACCEE", strict=True)]
    assert [name for name in line.log if name.startswith("read")] == ["read a", "read c", "read e"]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_fails_to_be_read_fails_all_that_share_it(prefetch):
    line = Line(prefetch, {"read c": bad("c")}, shared=lambda unit: unit in "cd")
    assert seen(line) == [("a", "AA"), ("b", "AA"), ("c", "bad c"), ("d", "bad c"), ("e", "EE"), ("f", "EE")]


def test_a_unit_need_not_ask_for_what_is_read():
    """As one whose text cannot be read: one by one nothing is read for it."""
    line = Line(0)
    refused = Stages(
        prepare=line.stages.prepare,
        compute=lambda unit, inputs: unit if unit == "c" else inputs(),
        write=lambda unit, made, folder: made,
        prefetch=0,
    )
    assert [made for _, made in in_stages(UNITS, refused, lambda place, made: made, Spent())] == list("ABcDEF")
    assert "read c" not in line.log


def test_waiting_is_counted_where_nothing_is_computed(monkeypatch):
    """By a clock that only reading (3 s), computing (5 s) and writing (2 s) move."""
    clock = [0.0]
    monkeypatch.setattr("components.runtime.stages.time.monotonic", lambda: clock[0])

    def takes(seconds, value):
        clock[0] += seconds
        return value

    stages = Stages(
        prepare=lambda unit: takes(3, unit),
        compute=lambda unit, inputs: takes(5, inputs()),
        write=lambda unit, made, folder: made,
        prefetch=0,
    )
    spent = Spent()
    list(in_stages(UNITS, stages, lambda place, made: takes(2, made), spent))
    assert (spent.seconds, spent.waited, spent.share) == (60, 30, 0.5)
    list(in_stages([], stages, lambda place, made: made, spent))
    spent.add(Spent(40, 20))
    assert (spent.seconds, spent.share) == (100, 0.5)
    assert Spent().share == 0.0
