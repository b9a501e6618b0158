"""Retries: whether a source is asked again after a failure, when, and a wait that can be interrupted.

One policy for everything that comes over the network: pinned downloads, signatures, artifacts of tasks, secrets and
repositories. A source is one URL; its attempts and the waits between them share one total time.
"""

from __future__ import annotations

import contextlib
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from tasks_lib.errors import HttpStatusError, StalledError, TransportError, UnreachableError
from tasks_lib.gil import released
from tasks_lib.network import Policy
from tasks_lib.progress import Progress

#: Longest wait in seconds that no server asked for. Source: Nix 2026, 60 s; half of it, since mirrors are asked too.
_MAX_BACKOFF_S: Final = 30.0
#: Doublings after which the backoff has long reached its maximum; more would leave the range of a float.
_MAX_DOUBLINGS: Final = 30
#: How much longer the backoff is after "too many requests" and "unavailable". Source: Nix has a base of its own.
_BUSY: Final = frozenset({429, 503})
_BUSY_FACTOR: Final = 5
#: Longest wait in seconds for one source while another has not been asked yet. Source: docs/network.md.
_PATIENCE_S: Final = 10.0
#: Seconds between two checks whether the run was asked to stop.
_CHECK_S: Final = 0.1


class Retry:
    """The retries and the time that one source has left; its clock runs from `begin`, and stops while postponed."""

    def __init__(self, policy: Policy, total_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Give a source `policy.retries` retries and `total_s` seconds for all attempts and waits together."""
        self._policy, self._total_s, self._sleep = policy, total_s, sleep
        self._retries = policy.retries
        self._stopped_s = total_s  # left while the clock stands
        self._mismatched = False
        self._later: tuple[str, str] | None = None  # URL and reason of a source that was postponed
        self.ready = 0.0  # when a postponed source may be asked again, by time.monotonic
        self.ends = 0.0  # when the time is over, by time.monotonic; 0 while the clock stands

    @property
    def is_used_up(self) -> bool:
        """Whether no retry is left."""
        return self._retries <= 0

    @property
    def is_postponed(self) -> bool:
        """Whether other sources are asked before this one is asked again."""
        return self._later is not None

    @property
    def left_s(self) -> float:
        """The seconds that are left for attempts and waits."""
        return self.ends - time.monotonic() if self.ends else self._stopped_s

    def begin(self) -> float:
        """Start the clock if it stands; return when the time of the source is over, by time.monotonic."""
        self.ends = self.ends or time.monotonic() + self._stopped_s
        return self.ends

    def once_more(self) -> bool:
        """Return whether to ask again at once after wrong content: once, as it may have been damaged on the way."""
        if self._mismatched or self.is_used_up:
            return False
        self._mismatched = True
        self._retries -= 1
        return True

    def again(self, error: TransportError, progress: Progress, url: str, others: int = 0) -> bool:
        """Wait and return True when the source is to be asked again after `error`, else return False.

        A source that does not answer or has to be waited for long is postponed while there are others: `rounds` yields
        it once more. A server that asks for a longer wait than there is time ends its source; the message says so.

        Args:
            error: of the last attempt.
            progress: told about the wait, and asked whether to go on.
            url: of the source, without secrets.
            others: sources that have not been asked yet.

        Raises:
            CancelledError: the run was asked to stop.
        """
        wait_s = self._wait_s(error)
        if wait_s is None:
            return False
        if others and (is_silent(error) or wait_s > _PATIENCE_S):
            self._later = url, error.message
            self.ready = time.monotonic() + (0.0 if is_silent(error) else wait_s)
            self._stopped_s, self.ends = self.left_s, 0.0
            return False
        self._retries -= 1
        self._wait(wait_s, progress, url, error.message)
        return True

    def resume(self, progress: Progress) -> None:
        """Wait for what is left of the wait that postponed the source.

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
        """Return the seconds to wait: full jitter above what the server asks for; None to leave the source for good.

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


def rounds(retries: Sequence[Retry], progress: Progress) -> Iterator[tuple[int, int]]:
    """Yield the index of each source with the number of those not asked yet, then the postponed ones, soonest first.

    Raises:
        CancelledError: the run was asked to stop while a postponed source was waited for.
    """
    for number in range(len(retries)):
        yield number, len(retries) - number - 1
    postponed = [number for number, retry in enumerate(retries) if retry.is_postponed]
    for number in sorted(postponed, key=lambda number: retries[number].ready):
        retries[number].resume(progress)
        yield number, 0


def is_busy(error: Exception) -> bool:
    """Whether the server says that it gets too many requests."""
    return isinstance(error, HttpStatusError) and error.status in _BUSY


def is_silent(error: Exception) -> bool:
    """Whether no connection came about, or nothing came over it for too long."""
    return isinstance(error, StalledError | UnreachableError)


def retry_after_s(text: str) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, None when it is none.

    Source: RFC 9110 section 10.2.3.
    """
    if re.fullmatch("[0-9]{1,15}", text.strip()):
        return float(text)
    from email.utils import parsedate_to_datetime  # it loads sockets, and dates are rare

    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
