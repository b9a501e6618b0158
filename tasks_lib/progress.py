"""What a working step tells whoever watches it, and how it is asked to stop.

One `Progress` belongs to one running task. The steps speak; a face (graph, fetch_content) listens.
`LineProgress` is the one that writes plain lines; where they go and how they read is given to it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from tasks_lib.errors import CancelledError

Facts = Mapping[str, str | int | float]


class Progress(Protocol):
    """The seam between a step and its watcher; implementations are safe to call from any thread."""

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Say that a phase begins: queue, wait, connect, first-byte, body, verify, repack, extract, place, run.

        Usual facts: `url` (secrets redacted), `total` (bytes of this phase), `resumed` (bytes had before); of a `wait`
        `holder` (the process that is waited for) or `seconds` and `reason` (before the source is asked again).
        """

    def advance(self, size: int) -> None:
        """Say that `size` more bytes of the current phase are done."""

    def warn(self, message: str) -> None:
        """Say one line that a person should read although the task goes on."""

    def check(self) -> None:
        """Return at once, or stop the work.

        Raises:
            CancelledError: the run was asked to stop.
        """


class Silent:
    """A watcher that listens to nothing and never stops the work."""

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Ignore."""

    def advance(self, size: int) -> None:
        """Ignore."""

    def warn(self, message: str) -> None:
        """Ignore."""

    def check(self) -> None:
        """Never stops."""


class LineProgress:
    """Write what a step reports as plain lines; safe to call from any thread, cancelled from any other."""

    def __init__(
        self, write: Callable[[str], None], describe: Callable[[str, Facts], str], every_s: float = math.inf
    ) -> None:
        """Create it.

        Args:
            write: takes one message at a time, without its line end.
            describe: returns the message for a phase and its facts, "" for none. The phase "advance" has `size` and
                `total`, the bytes done and to be done.
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
        self._tell(name, facts)

    def advance(self, size: int) -> None:
        """Count bytes; write how far it is when the last such message is old enough."""
        with self._lock:
            self.size += size
            now_s = time.monotonic()
            if now_s - self._written_s < self._every_s:
                return
            self._written_s = now_s
        self._tell("advance", {"size": self.size, "total": self._total})

    def _tell(self, name: str, facts: Facts) -> None:
        message = self._describe(name, facts)
        if message:
            self.warn(message)

    def warn(self, message: str) -> None:
        """Write one message."""
        with self._lock:
            self._write(message)

    def check(self) -> None:
        """Return at once, or stop the work.

        Raises:
            CancelledError: `cancel` was called.
        """
        if self._cancelled:
            raise CancelledError("interrupted")

    def cancel(self) -> None:
        """Stop every thread at its next `check`."""
        self._cancelled = True


def describe_wait(name: str, facts: Facts) -> str:
    """Return the message for a phase that waits for another process, "" for any other."""
    return f"waiting for process {facts['holder']}" if name == "wait" and "holder" in facts else ""
