"""How a store that does not answer is asked again: with growing, random waits, for so many minutes.

What may heal (`TransientError`) is a refused or broken connection, no answer in time, a cut body, 5xx and "slow down".
A store that stays away is `TryAgainError`. The log names the first failure of an outage, then how long it lasts, at
growing intervals, then that the store answers again.
"""

from __future__ import annotations

import http.client
import logging
import ssl
import time
from collections.abc import Callable
from typing import TypeVar

import tenacity
import urllib3
from minio.error import InvalidResponseError, S3Error, ServerError

from components.core.errors import TryAgainError

T = TypeVar("T")
log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 30.0
_FIRST_WORD_S = 15.0  # then twice as long each time
_QUIET_S = 60.0  # of many short outages the log names one a minute
LATER = {"RequestTimeout", "SlowDown", "TooManyRequests", "OperationAborted", "InternalError", "ServiceUnavailable"}
_LATER_STATUS = {408, 429}
_NEVER_STATUS = {501, 505}  # the server will not learn it


class TransientError(Exception):
    """A fault that the same call may not meet again."""


class Patience:
    """Tries calls to one place again until they succeed, or `minutes` have passed since the call began."""

    def __init__(self, minutes: float, place: str) -> None:
        self.minutes, self.place = minutes, place
        self._since: float | None = None  # when the outage began
        self._told = False  # whether the log names it
        self._next = float("-inf")  # when the log names it, again or at all

    @property
    def timeout(self) -> urllib3.Timeout:
        """How long a request may take to connect, and each part of its answer: several tries fit into the bound."""
        share = self.minutes * 60 / 4
        return urllib3.Timeout(connect=min(10.0, share), read=min(60.0, share))

    def __call__(self, what: str, action: Callable[[], T]) -> T:
        """Return what `action` returns; a TransientError calls it again. Raises TryAgainError: time is up."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_before_delay(self.minutes * 60),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=_LONGEST_WAIT_S),
            before_sleep=lambda state: self._failed(what, state),
            reraise=True,
        )
        try:
            answer = retrying(action)
        except TransientError as error:
            problem = f"the store did not answer within {self.minutes:g} minutes: {what} failed "
            problem += f"{retrying.statistics['attempt_number']} times, at last with {error}"
            remedy = "run again when it answers: finished work is remembered. `store_patience` sets the minutes"
            raise TryAgainError(problem, source=self.place, remedy=remedy) from error
        self._answered()
        return answer

    def _failed(self, what: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        now = time.monotonic()
        since = self._since = state.start_time if self._since is None else self._since
        if now < self._next:
            return
        if self._told:
            log.warning("%s: no answer for %.0f s (%s)", self.place, now - since, error)
        else:
            bound = f"trying again for up to {self.minutes:g} minutes"
            log.warning("%s: %s failed (%s), %s", self.place, what, error, bound)
        self._told, self._next = True, now + max(_FIRST_WORD_S, now - since)

    def _answered(self) -> None:
        since, self._since = self._since, None
        if since is not None and self._told:
            now = time.monotonic()
            self._told, self._next = False, now + _QUIET_S
            log.warning("%s answers again after %.1f s", self.place, now - since)


def transient(error: Exception) -> str | None:
    """Return what to call a fault that may heal, or None where asking again cannot help. No text holds a secret."""
    if isinstance(error, S3Error):
        status = error.response.status
        later = error.code in LATER or _may_heal(status)
        return (str(error.code) if error.code else f"HTTP {status}") if later else None
    if isinstance(error, (InvalidResponseError, ServerError)):
        status = error._code if isinstance(error, InvalidResponseError) else error.status_code
        return f"HTTP {status}" if _may_heal(status) else None
    if isinstance(error, urllib3.exceptions.SSLError):
        hung_up = error.args and isinstance(error.args[0], (ssl.SSLEOFError, ssl.SSLZeroReturnError))
        return "the connection was closed" if hung_up else None
    if isinstance(error, urllib3.exceptions.LocationValueError):
        return None
    if isinstance(error, (urllib3.exceptions.HTTPError, ConnectionError)):
        cut = any(isinstance(item, http.client.IncompleteRead) for item in error.args)
        return "a cut answer" if cut else _NAMES.get(type(error).__name__, type(error).__name__)
    return None


_NAMES = {
    "NewConnectionError": "no connection",
    "NameResolutionError": "no such host",
    "ConnectTimeoutError": "no connection in time",
    "ReadTimeoutError": "no answer in time",
    "ProtocolError": "a broken connection",
}


def _may_heal(status: int) -> bool:
    return status in _LATER_STATUS or (status >= 500 and status not in _NEVER_STATUS)
