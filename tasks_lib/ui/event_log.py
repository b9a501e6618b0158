"""Event log: every event of a run as one line of JSON, for programs. docs/events.md describes the format.

Each line is appended with a single `write`, so readers see whole lines and two runs may share a file. If the log cannot
be written, the run warns once and continues: the log never blocks, slows or fails a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from tasks_lib.ui.events import Event

#: Version of the format; increase it when readers of the old format would misread the new one.
FORMAT: Final = 1
#: Seconds between two `progress` lines of one task.
_EVERY_S: Final = 0.5
#: Longest text of a message, in characters.
_MAX_TEXT: Final = 4000
_NAMES: Final = {"warn": "warning"}


class EventLog:
    """Listener that appends the events of a run to `path`; thread-safe."""

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        """Open the file; call `warn` once if it cannot be written."""
        self._warn = warn
        self._lock = threading.Lock()
        self._begun_s = time.monotonic()
        self._run = os.urandom(6).hex()
        self._late: dict[str, tuple[float, int]] = {}  # task -> time of its last `progress` line, bytes since
        self._path = path
        self._descriptor = -1
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a reader
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            self._descriptor = os.open(path, flags, 0o644)
        except (OSError, ValueError) as error:
            self._give_up(error)

    def begin(self, tasks: int) -> None:
        """Write that the run begins, with the wall-clock time."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        facts = {"format": FORMAT, "version": installed_version(), "time": now, "pid": os.getpid(), "tasks": tasks}
        self._write("begin", self._begun_s, facts)

    def on_event(self, event: Event) -> None:
        """Write an event; combine progress of a task to at most two lines a second."""
        with self._lock:
            if event.name == "advance":
                self._progress(event)
                return
            if event.name == "done":  # `end` follows, with the outcome
                return
            if event.name in ("phase", "end"):
                self._rest(event)
            facts = {key: _short(value) for key, value in event.facts.items() if value != ""}
            self._write(
                _NAMES.get(event.name, event.name), event.at_s, {"task": event.task, "worker": event.worker, **facts}
            )

    def finish(self, at_s: float, counts: Mapping[str, int]) -> None:
        """Write that the run has ended; close the file."""
        with self._lock:
            self._write("finish", at_s, {"counts": {outcome: number for outcome, number in counts.items() if number}})
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _progress(self, event: Event) -> None:
        last, size = self._late.get(event.task, (event.at_s, 0))
        size += int(event.facts["size"])
        if event.at_s - last < _EVERY_S:
            self._late[event.task] = (last, size)
            return
        self._late[event.task] = (event.at_s, 0)
        self._write("progress", event.at_s, {"task": event.task, "worker": event.worker, "size": size})

    def _rest(self, event: Event) -> None:
        _, size = self._late.pop(event.task, (0.0, 0))
        if size:
            self._write("progress", event.at_s, {"task": event.task, "worker": event.worker, "size": size})

    def _write(self, name: str, at_s: float, facts: Mapping[str, Any]) -> None:
        if self._descriptor < 0:
            return
        line = json.dumps({"event": name, "run": self._run, "at_s": round(at_s - self._begun_s, 4), **facts})
        data = line.encode("ascii") + b"\n"
        try:
            if os.write(self._descriptor, data) < len(data):
                self._give_up(OSError("partial write"))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
        reason = getattr(error, "strerror", None) or str(error)
        self._warn(f"cannot write the event log {self._path}: {reason}; the run continues without it")


def _short(value: str | int | float) -> str | int | float:
    return value[:_MAX_TEXT] if isinstance(value, str) else value


def installed_version() -> str:
    """Return the version of this package."""
    try:
        return version("doit-fetch")
    except PackageNotFoundError:
        return "0"
