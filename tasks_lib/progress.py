"""Progress reports from a running step, and requests to stop it.

One `Progress` belongs to one running task. Steps report to it; the doit adapters and fetch_content implement it.
`LineProgress` writes plain lines; the caller supplies the output function and the wording.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from tasks_lib.errors import CancelledError
from tasks_lib.named import NamedTuple

Facts = Mapping[str, str | int | float]


class FailedSource(NamedTuple):
    """A source that failed although another one provided the content; `role` is "origin" or "mirror".

    `url` has its secrets redacted; `reason` is one line.
    """

    role: str
    url: str
    reason: str

    def __str__(self) -> str:
        return f"{self.role} {self.url} failed: {self.reason}"


class Progress(Protocol):
    """The interface between a step and its observer; implementations are safe to call from any thread."""

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Report that a phase begins.

        Names: queue, wait, connect, first-byte, body, verify, repack, extract, place, run, adopt (the content of the
        cache is used although other phases came before).
        Usual facts: `url` (secrets redacted), `total` (bytes of this phase), `resumed` (bytes from an earlier run). A
        `wait` has `holder` (the process that holds the lock), or `seconds` and `reason` (the pause before a retry).
        """

    def advance(self, size: int) -> None:
        """Report that `size` more bytes of the current phase are done."""

    def warn(self, message: str) -> None:
        """Report a warning of one line; the task continues."""

    def failed_source(self, source: FailedSource) -> None:
        """Report a source that failed although another one provided the content."""

    def check(self) -> None:
        """Raise when the run was asked to stop.

        Raises:
            CancelledError: the run was asked to stop.
        """


class Silent:
    """A progress that ignores all reports and never stops the work."""

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Ignore."""

    def advance(self, size: int) -> None:
        """Ignore."""

    def warn(self, message: str) -> None:
        """Ignore."""

    def failed_source(self, source: FailedSource) -> None:
        """Ignore."""

    def check(self) -> None:
        """Return; the work never stops."""


class Stoppable:
    """A progress that passes reports on to another one; work with it also stops after `stop`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._is_stopped = False
        self.phase, self.advance = progress.phase, progress.advance
        self.warn, self.failed_source = progress.warn, progress.failed_source

    def check(self) -> None:
        """Raise when `stop` was called, or as the other progress.

        Raises:
            CancelledError: the work was asked to stop.
        """
        if self._is_stopped:
            raise CancelledError("interrupted")
        self._progress.check()

    def stop(self) -> None:
        """Stop every thread at its next `check`."""
        self._is_stopped = True


def do_nothing() -> None:
    """Do nothing: a `check` that never stops the work."""


class LineProgress:
    """A progress that writes plain lines; safe to call from, and to cancel from, any thread."""

    def __init__(
        self, write: Callable[[str], None], describe: Callable[[str, Facts], str], every_s: float = math.inf
    ) -> None:
        """Create a progress.

        Args:
            write: receives one message at a time, without line terminator.
            describe: returns the message for a phase and its facts, "" for no message. The phase "advance" has `size`
                and `total`, the bytes done and the bytes in all.
            every_s: seconds between two messages of "advance".
        """
        self._write, self._describe, self._every_s = write, describe, every_s
        self._lock = threading.Lock()
        self._total = 0
        self._written_s = time.monotonic()
        self._cancelled = False
        self.size = 0

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Write the message for a phase."""
        self._total = int(facts.get("total", 0))
        self._write_phase(name, facts)

    def advance(self, size: int) -> None:
        """Count bytes; write a message when the last one is at least `every_s` old."""
        with self._lock:
            self.size += size
            now_s = time.monotonic()
            if now_s - self._written_s < self._every_s:
                return
            self._written_s = now_s
        self._write_phase("advance", {"size": self.size, "total": self._total})

    def _write_phase(self, name: str, facts: Facts) -> None:
        message = self._describe(name, facts)
        if message:
            self.warn(message)

    def warn(self, message: str) -> None:
        """Write one message."""
        with self._lock:
            self._write(message)

    def failed_source(self, source: FailedSource) -> None:
        """Write it as a message."""
        self.warn(str(source))

    def check(self) -> None:
        """Raise when `cancel` was called.

        Raises:
            CancelledError: `cancel` was called.
        """
        if self._cancelled:
            raise CancelledError("interrupted")

    def cancel(self) -> None:
        """Stop every thread at its next `check`."""
        self._cancelled = True


def describe_wait(name: str, facts: Facts) -> str:
    """Return the message for a phase that waits for another process, "" for any other phase."""
    return f"waiting for process {facts['holder']}" if name == "wait" and "holder" in facts else ""
