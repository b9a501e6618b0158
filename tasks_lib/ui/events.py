"""Events of a run, and the request to stop it: the interface between actions and reporters.

Actions emit events through the `Progress` that `EventBus.progress` returns; reporters, the event log and the trace
listen; the runner requests the stop. doit runs one graph per process, so there is one `BUS`. Nothing in this module
prints, except the default listener `to_stderr`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tasks_lib.errors import CancelledError, escaped
from tasks_lib.progress import LineProgress, describe_wait


class Event(NamedTuple):
    """One event of a task.

    Names and facts: `phase` (`phase` and facts of that phase), `advance` (`size` bytes), `warn` (`message`), `skip`
    (`reason`). The reporter emits `start` first and `end` (`outcome`, `message`) last. Before `end` the runner emits
    `done` on the worker's thread, because the outcome is known only after doit has processed the task.
    `at_s` is in monotonic seconds, `worker` is the name of the thread that runs the task.
    """

    task: str
    name: str
    at_s: float
    worker: str
    facts: Mapping[str, str | int | float]


Listener = Callable[[Event], None]


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
        event = Event(task, name, time.monotonic(), threading.current_thread().name, facts)
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
        sys.stderr.write(f"{escaped(message)}\n")
        sys.stderr.flush()


_LINES: Final = LineProgress(write_to_stderr, describe_wait)


#: Event bus of the run in this process.
BUS: Final = EventBus()
