"""Retries: decide whether and when to ask a source again after a failure, and wait in an interruptible way.

All network access shares one policy: pinned downloads, signatures, artifacts of tasks, secrets and repositories. A
source is one URL; its attempts and the waits between them share one total time.
"""

from __future__ import annotations

import contextlib
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Final

from tasks_lib.errors import HttpStatusError, StalledError, TransportError, UnreachableError
from tasks_lib.gil import released
from tasks_lib.network import Policy
from tasks_lib.progress import Progress

#: Status codes after which the same request may succeed. Source: RFC 9110 section 15, RFC 6585 section 4; servers that
#: build an archive on demand send 202 until it is ready; content delivery networks use 52x for errors of their origin.
_TRANSIENT: Final = frozenset({202, 408, 425, 429, 500, 502, 503, 504, 507, 520, 521, 522, 523, 524})
#: Longest backoff in seconds, without a Retry-After. Source: half of the 60 s of Nix 2026, as mirrors are tried too.
_MAX_BACKOFF_S: Final = 30.0
#: Most doublings of the backoff: it has reached its maximum long before, and more would overflow a float.
_MAX_DOUBLINGS: Final = 30
#: Factor of the backoff after "too many requests" and "unavailable". Source: Nix uses a separate base for them.
_BUSY: Final = frozenset({429, 503})
_BUSY_FACTOR: Final = 5
#: Longest wait in seconds for one source while another source has not been asked yet. Source: docs/network.md.
_PATIENCE_S: Final = 10.0
#: Seconds between two checks for cancellation.
_CHECK_S: Final = 0.1


class Retry:
    """The remaining retries and time of one source. The clock starts at `begin` and stops while it is postponed."""

    def __init__(self, policy: Policy, total_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Allow `policy.retries` retries, and `total_s` seconds for all attempts and waits together."""
        self._policy, self._total_s, self._sleep = policy, total_s, sleep
        self._retries = policy.retries
        self._stopped_s = total_s  # remaining time while the clock is stopped
        self._mismatched = False
        self._later: tuple[str, str] | None = None  # URL and reason if the source is postponed
        self.ready = 0.0  # when a postponed source may be asked again (time.monotonic)
        self.ends = 0.0  # when the time is over (time.monotonic); 0 while the clock is stopped

    @property
    def is_used_up(self) -> bool:
        """Whether no retry is left."""
        return self._retries <= 0

    @property
    def is_postponed(self) -> bool:
        """Whether other sources are asked before this one is retried."""
        return self._later is not None

    @property
    def left_s(self) -> float:
        """The remaining seconds for attempts and waits."""
        return self.ends - time.monotonic() if self.ends else self._stopped_s

    def begin(self) -> float:
        """Start the clock if it is stopped; return when the time of the source is over (time.monotonic)."""
        self.ends = self.ends or time.monotonic() + self._stopped_s
        return self.ends

    def once_more(self) -> bool:
        """Return whether to retry at once after wrong content: allowed once, because of possible damage in transit."""
        if self._mismatched or self.is_used_up:
            return False
        self._mismatched = True
        self._retries -= 1
        return True

    def again(self, error: TransportError, progress: Progress, url: str, others: int = 0) -> bool:
        """Wait and return True to retry the source after `error`, else return False.

        A source that does not respond or requires a long wait is postponed while there are other sources:
        `iterate_sources` yields it once more. If the server asks for a longer wait than the remaining time, the source
        is not retried, and `error.message` says so.

        Args:
            error: the error of the last attempt.
            progress: receives the wait, and is checked for cancellation.
            url: the URL of the source, without secrets.
            others: number of sources that have not been asked yet.

        Raises:
            CancelledError: the run was asked to stop.
        """
        wait_s = self._wait_s(error)
        if wait_s is None:
            return False
        if others and (is_unresponsive(error) or wait_s > _PATIENCE_S):
            self._later = url, error.message
            self.ready = time.monotonic() + (0.0 if is_unresponsive(error) else wait_s)
            self._stopped_s, self.ends = self.left_s, 0.0
            return False
        self._retries -= 1
        self._wait(wait_s, progress, url, error.message)
        return True

    def resume(self, progress: Progress) -> None:
        """Wait for the rest of the time by which the source was postponed.

        Raises:
            CancelledError: the run was asked to stop.
        """
        if self._later is None:
            return
        (url, reason), self._later = self._later, None
        wait_s = self.ready - time.monotonic()
        if wait_s > 0:
            self.begin()
            self._wait(wait_s, progress, url, reason)

    def _wait_s(self, error: TransportError) -> float | None:
        """Return the seconds to wait: those the server asks for plus full jitter; None not to retry the source.

        Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; RFC 9110 section 10.2.3.
        """
        left_s = self.left_s
        if not error.transient or self.is_used_up or left_s <= 0:
            return None
        asked_s = (error.retry_after_s or 0.0) if isinstance(error, HttpStatusError) else 0.0
        if asked_s >= left_s:
            error.message += (
                f"; the server asks to wait {asked_s:.0f} s, but {max(0.0, left_s):.3g} s are left for this source"
                f" (FETCH_TOTAL_TIMEOUT_S={math.ceil(asked_s + self._total_s)} allows the wait)"
            )
            return None
        doublings = min(self._policy.retries - self._retries, _MAX_DOUBLINGS)
        backoff_s = self._policy.backoff_s * (_BUSY_FACTOR if is_busy(error) else 1) * 2.0**doublings
        return asked_s + random.uniform(0, min(_MAX_BACKOFF_S, backoff_s, left_s - asked_s))

    def _wait(self, seconds: float, progress: Progress, url: str, reason: str) -> None:
        if seconds > 0:
            progress.phase("wait", url=url, seconds=round(seconds, 1), reason=reason)
        with released:
            while seconds > 0:
                progress.check()
                self._sleep(min(seconds, _CHECK_S))
                seconds -= _CHECK_S


def iterate_sources(retries: Sequence[Retry], progress: Progress) -> Iterator[tuple[int, int]]:
    """Yield the index of each source and the number of later ones, then the postponed sources, soonest first, and 0.

    Raises:
        CancelledError: the run was asked to stop during the wait for a postponed source.
    """
    for number in range(len(retries)):
        yield number, len(retries) - number - 1
    postponed = [number for number, retry in enumerate(retries) if retry.is_postponed]
    for number in sorted(postponed, key=lambda number: retries[number].ready):
        retries[number].resume(progress)
        yield number, 0


def is_busy(error: Exception) -> bool:
    """Whether the server reports too many requests or unavailability (429, 503, or 403 with a Retry-After)."""
    return isinstance(error, HttpStatusError) and (
        error.status in _BUSY or is_rate_limit(error.status, error.retry_after_s)
    )


def is_rate_limit(status: int, retry_after_s: float | None) -> bool:
    """Whether a status is a 403 with a Retry-After. Source: GitHub, "Rate limits for the REST API"."""
    return status == 403 and retry_after_s is not None


def is_transient_status(status: int, retry_after_s: float | None = None) -> bool:
    """Whether the same request may succeed later after this status."""
    return status in _TRANSIENT or is_rate_limit(status, retry_after_s)


def is_unresponsive(error: Exception) -> bool:
    """Whether the host was unreachable or the connection stalled."""
    return isinstance(error, StalledError | UnreachableError)


def retry_after_s(text: str) -> float | None:
    """Return the seconds of a Retry-After header, None if it is missing or invalid.

    Source: RFC 9110 section 10.2.3.
    """
    if re.fullmatch("[0-9]{1,15}", text.strip()):
        return float(text)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
