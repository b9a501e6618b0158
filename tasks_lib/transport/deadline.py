"""Deadlines of one attempt: connect, stall, minimum rate and total time. Checked before and during every wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tasks_lib.errors import StalledError, TransportError, UnreachableError
from tasks_lib.network import TransportSettings
from tasks_lib.progress import do_nothing

#: Seconds between two checks for cancellation.
CHECK_INTERVAL_S: Final = 0.1
#: Seconds for reading the beginning of a rejected response.
_GLANCE_S: Final = 2.0
_READING: Final = "reading the body"
_GLANCING: Final = "reading the end"


class Deadline:
    """Limits on the waits of one attempt, by phase, and the errors for exceeding them.

    Only the time spent waiting counts for the minimum rate, so that a slow local disk does not.
    """

    def __init__(
        self,
        settings: TransportSettings,
        ends: float,
        check: Callable[[], None] = do_nothing,
        asked: Callable[[], None] = do_nothing,
    ) -> None:
        self._settings, self._ends, self.check, self._asked = settings, ends, check, asked
        self._begun = time.monotonic()
        self._phase_ends = self._begun
        self._phase_s = 0.0
        self._waited = 0.0
        self._window_bytes = 0
        self.phase = "connecting"
        self.is_connected = self.is_in_body = False
        self.host = ""
        self.received = 0
        self.total_waited_s = 0.0

    @property
    def ca_bundle(self) -> str:
        """The trusted authorities, "" for those of the system."""
        return self._settings.ca_bundle

    def connecting(self, phase: str) -> None:
        """Begin a phase before the request: resolving, connecting or TLS."""
        self.is_connected = self.is_in_body = False
        self._begin(phase, self._settings.connect_timeout_s)

    def answering(self) -> None:
        """Begin to wait for the head of the response, including all interim responses."""
        self.is_connected, self.is_in_body = True, False
        self._begin("waiting for the response", self._settings.stall_timeout_s)
        self._asked()

    def sending(self) -> None:
        """Begin to send the next bytes of a body: the wait for the response begins when the last ones are sent."""
        self._begin("sending the body", self._settings.stall_timeout_s)

    def reading(self) -> None:
        """Begin to read the body."""
        self._begin(_READING, self._settings.stall_timeout_s)
        self.is_in_body = True
        self._waited, self._window_bytes, self.total_waited_s = 0.0, 0, 0.0

    def begin_short_read(self) -> None:
        """Begin a read that is not worth a long wait: an error response, or a check for the end of the body."""
        self._begin(_GLANCING, min(_GLANCE_S, self._settings.stall_timeout_s))
        self.is_in_body = True

    def _begin(self, phase: str, seconds: float) -> None:
        self.phase, self._phase_s = phase, seconds
        self._phase_ends = time.monotonic() + seconds

    def moved(self, size: int) -> None:
        """Count `size` received bytes. Bytes of a head do not extend the deadline."""
        if self.is_in_body:
            self._window_bytes += size
            if self.phase == _READING:
                self._phase_ends = time.monotonic() + self._phase_s

    def waited(self, seconds: float) -> None:
        """Count a wait for bytes of the body.

        Raises:
            StalledError: the rate is below the minimum.
        """
        self._waited += seconds
        self.total_waited_s += seconds
        window_s = self._settings.rate_window_s
        if self._waited >= window_s:
            slow = self._window_bytes < self._settings.min_rate_bps * self._waited
            if slow and self.phase == _READING:
                rate = self._settings.min_rate_bps
                raise self.stalled(f"slower than {rate:g} bytes/s over {window_s:g} s")
            self._waited, self._window_bytes = 0.0, 0

    def left_s(self) -> float:
        """Return the remaining seconds of the current wait.

        Raises:
            StalledError: a deadline passed.
            CancelledError: the run was asked to stop.
        """
        self.check()
        now = time.monotonic()
        if now >= self._ends:
            raise self.stalled(f"timed out after {self._ends - self._begun:.3g} s in total")
        if now >= self._phase_ends:
            what = "no data for" if self.is_in_body else "timed out after"
            raise self.stalled(f"{what} {self._phase_s:g} s")
        return min(self._ends, self._phase_ends) - now

    def stalled(self, reason: str) -> StalledError:
        """Return the error for an exceeded deadline."""
        return StalledError(self.describe(reason), transient=True)

    def broken(self, reason: str) -> TransportError:
        """Return the error for a failed connection; transient."""
        kind = TransportError if self.is_connected else UnreachableError
        return kind(self.describe(reason), transient=True)

    def describe(self, reason: str) -> str:
        """Return `reason` with the host, the phase and the number of bytes received."""
        so_far = f" after {self.received} bytes" if self.is_in_body else ""
        return f"{self.host}: {reason} while {self.phase}{so_far}"
