"""How far a long work is, told on stderr; results belong on stdout."""

from __future__ import annotations

import sys
import threading
import time
from typing import Final

from tasks_lib.errors import CancelledError, escaped
from tasks_lib.units import format_size

#: Seconds between two lines that say how far it is.
_TELL_S: Final = 5.0


class Told:
    """Says on stderr how far it is: every few seconds, in place on a terminal."""

    def __init__(self) -> None:
        self.size = 0
        self._total = 0
        self._lock = threading.Lock()
        self._told_s = time.monotonic()
        self._stopped = False

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Say for whom it waits; remember how much there is to do."""
        self._total = int(facts.get("total", 0))
        if name == "wait" and "holder" in facts:
            self.warn(f"waiting for process {facts['holder']}")

    def advance(self, size: int) -> None:
        """Count, and say it now and then."""
        with self._lock:
            self.size += size
            now_s = time.monotonic()
            if now_s - self._told_s < _TELL_S:
                return
            self._told_s = now_s
        of = f" of {format_size(self._total)}" if self._total > self.size else ""
        self.warn(f"{format_size(self.size)}{of} read")

    def warn(self, message: str) -> None:
        """Write one line."""
        if sys.stderr is not None:
            sys.stderr.write(f"{escaped(message)}\n")
            sys.stderr.flush()

    def check(self) -> None:
        """Return, or stop the work.

        Raises:
            CancelledError: it was interrupted.
        """
        if self._stopped:
            raise CancelledError("interrupted")

    def stop(self) -> None:
        """Let every thread stop at its next check."""
        self._stopped = True
