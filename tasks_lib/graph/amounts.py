"""Amounts as people write and read them: sizes, periods; and how far a long work is.

Told on stderr; results belong on stdout.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Mapping
from typing import Final

from tasks_lib.errors import CancelledError, SettingError, escaped

UNITS: Final = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
PERIODS: Final = {"": 86400.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_NUMBER: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)")
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
        of = f" of {bytes_told(self._total)}" if self._total > self.size else ""
        self.warn(f"{bytes_told(self.size)}{of} read")

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


def quantity(text: str, units: Mapping[str, float], option: str, example: str) -> float | None:
    """Return the number that `text` says in one of `units`, None for "".

    Raises:
        SettingError: it says none.
    """
    if not text:
        return None
    found = _NUMBER.fullmatch(text.strip().lower())
    if found is None or found[2] not in units:
        raise SettingError(f"{option}={escaped(text)} is no such quantity", hint=f"write it as {example}")
    return float(found[1]) * units[found[2]]


def whole(number: float | None) -> int | None:
    """Return a number without its fraction."""
    return None if number is None else int(number)


def bytes_told(size: float) -> str:
    """Return a size as a person reads it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def days_told(seconds: float) -> str:
    """Return a period in days."""
    return f"{seconds / 86400:.1f} d"
