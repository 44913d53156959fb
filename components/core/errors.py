"""Errors a person can act on, and the exit code each one ends a step with.

Every message names the value, where it came from, and what to do. Codes: 0 ok, 1 a bug (traceback), 2 fix a parameter,
credentials or the machine's size, 3 fix or rerun the named data, 75 try again (store unreachable, 503, disk full).
"""

from __future__ import annotations

from typing_extensions import Self


class MotionEnhancerError(Exception):
    """Base of all expected errors; `exit_code` is what the step's process ends with."""

    exit_code = 1

    def __init__(self, problem: str, *, source: str, remedy: str) -> None:
        self.problem, self.source, self.remedy = problem, source, remedy
        super().__init__(problem, source, remedy)

    def __str__(self) -> str:
        """Return all three, one below the other."""
        return f"{self.problem}\n  where:  {self.source}\n  remedy: {self.remedy}"

    def within(self, place: str) -> Self:
        """Return this error with a wider place of where it came from."""
        self.source = f"{self.source}, {place}"
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.problem, self.source, self.remedy)


class ParameterError(MotionEnhancerError):
    """A parameter, credential or machine size must change before this can run (exit 2)."""

    exit_code = 2


class DataError(MotionEnhancerError):
    """The named data must be repaired or computed again (exit 3)."""

    exit_code = 3


class UnitsFailed(DataError):
    """Too many of a step's units failed; `reasons` by unit."""

    def __init__(self, problem: str, *, source: str, remedy: str, reasons: dict[str, str]) -> None:
        super().__init__(problem, source=source, remedy=remedy)
        self.reasons = reasons


class TryAgainError(MotionEnhancerError):
    """Nothing is wrong with the request; the same call may succeed later (exit 75, `EX_TEMPFAIL`)."""

    exit_code = 75


def _rebuild(kind: type[MotionEnhancerError], problem: str, source: str, remedy: str) -> MotionEnhancerError:
    """Rebuild an error that crossed from one process to another."""
    return kind(problem, source=source, remedy=remedy)
