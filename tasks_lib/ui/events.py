"""Events of a run, and the request to stop it: the interface between actions and reporters.

Actions emit events through the `Progress` that `EventBus.progress` returns; reporters, the event log and the trace
listen; the runner requests the stop. doit runs one graph per process, so there is one `BUS`. Nothing in this module
prints, except the default listener `to_stderr`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from tasks_lib.errors import CancelledError, escape_text
from tasks_lib.named import NamedTuple
from tasks_lib.progress import FailedSource, LineProgress, describe_wait


class Event(NamedTuple):
    """One event of a task.

    Names and facts: `phase` (`phase` and facts of that phase), `advance` (`size` bytes), `warn` (`message`, and
    `role`, `url`, `reason` for a failed source), `skip`
    (`reason`), `output` (`path`, `sha256`, `size`, `tree`: what the task made). The reporter emits `start` first and
    `end` (`outcome`, `message`, and the facts of `output`) last. Before `end` the runner emits
    `done` on the worker's thread, because the outcome is known only after doit has processed the task.
    `at_s` is in monotonic seconds, `worker` is the name of the thread that runs the task.
    """

    task: str
    name: str
    at_s: float
    worker: str
    facts: Mapping[str, str | int | float]


Listener = Callable[[Event], None]
_own: Final = threading.local()  # the name of each thread


class EventBus:
    """Passes events to listeners, on the thread that emits them; listeners must be fast and thread-safe."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = (to_stderr,)
        self._stopping = False  # a plain flag: a signal may interrupt a thread that holds a lock

    def listen(self, *listeners: Listener) -> None:
        """Replace the listeners."""
        self._listeners = listeners

    def ask_to_stop(self) -> None:
        """Request that every task stops at its next `check`; safe in a signal handler."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested."""
        return self._stopping

    def say(self, task: str, name: str, facts: Mapping[str, str | int | float]) -> None:
        """Emit an event to every listener."""
        try:
            worker = _own.worker
        except AttributeError:
            worker = _own.worker = threading.current_thread().name
        self.relay(Event(task, name, time.monotonic(), worker, facts))

    def relay(self, event: Event) -> None:
        """Pass an event to every listener."""
        for listener in self._listeners:
            listener(event)

    def progress(self, task: str) -> TaskProgress:
        """Return the `Progress` of one task."""
        return TaskProgress(self, task)


class TaskProgress(NamedTuple):
    """`Progress` of one task; emits events."""

    watch: EventBus
    task: str

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Report that a phase begins."""
        self.watch.say(self.task, "phase", {"phase": name, **facts})

    def advance(self, size: int) -> None:
        """Report that `size` more bytes are done."""
        self.watch.say(self.task, "advance", {"size": size})

    def warn(self, message: str) -> None:
        """Report a warning of one line."""
        self.watch.say(self.task, "warn", {"message": message})

    def failed_source(self, source: FailedSource) -> None:
        """Report a source that failed although another one provided the content."""
        self.watch.say(self.task, "warn", {"message": str(source), **source._asdict()})

    def check(self) -> None:
        """Stop the work if a stop was requested.

        Raises:
            CancelledError: a stop was requested.
        """
        if self.watch.stopping:
            raise CancelledError(f"{self.task} was asked to stop")


def to_stderr(event: Event) -> None:
    """Write warnings, skip reasons and waits to stderr, one flushed line each."""
    if event.name == "warn":
        message = str(event.facts["message"])
    elif event.name == "skip":
        message = f"skipped: {event.facts['reason']}"
    elif event.name == "phase":
        message = describe_wait(str(event.facts["phase"]), event.facts)
    else:
        return
    if message:
        _LINES.warn(f"{event.task}: {message}")


def write_to_stderr(message: str) -> None:
    """Write one flushed line to stderr, if stderr is open."""
    if sys.stderr is not None:
        sys.stderr.write(f"{escape_text(message)}\n")
        sys.stderr.flush()


def stderr_progress() -> LineProgress:
    """Return a progress that writes warnings and waits to stderr, for a command that runs no tasks."""
    return LineProgress(write_to_stderr, describe_wait)


_LINES: Final = stderr_progress()


#: Event bus of the run in this process.
BUS: Final = EventBus()


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
            if event.name in ("done", "output"):  # `end` follows, with the outcome and the output
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
