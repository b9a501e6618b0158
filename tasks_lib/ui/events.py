"""What the tasks of a run say, and how they are asked to stop: the seam between actions and whoever shows them.

Actions speak through the `Progress` that `EventBus.progress` gives; reporters, the event log and the trace listen; the
runner asks to stop. doit runs one graph in a process, so there is one `BUS`. Nothing here prints but the listener that
stands in while nobody else listens.
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
    """One thing that a task said.

    Names and facts: `phase` (`phase` and its own), `advance` (`size` bytes), `warn` (`message`), `skip` (`reason`);
    around them the reporter says `start` and `end` (`outcome`, `message`), and before `end` the runner `done`, on the
    worker's thread: what became of a task is known only when doit hears of it.
    `at_s` is monotonic seconds, `worker` the name of the thread that works for the task.
    """

    task: str
    name: str
    at_s: float
    worker: str
    facts: Mapping[str, str | int | float]


Listener = Callable[[Event], None]


class EventBus:
    """Passes what tasks say to its listeners, on the thread that says it; listeners are quick and thread-safe."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = (to_stderr,)
        self._stopping = False  # a plain flag: a lock could be held by whom a signal interrupts

    def listen(self, *listeners: Listener) -> None:
        """Let these be the listeners, instead of those before."""
        self._listeners = listeners

    def ask_to_stop(self) -> None:
        """Make every task stop at its next `check`; safe in a signal handler."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """Whether the run was asked to stop."""
        return self._stopping

    def say(self, task: str, name: str, facts: Mapping[str, str | int | float]) -> None:
        """Tell every listener."""
        event = Event(task, name, time.monotonic(), threading.current_thread().name, facts)
        for listener in self._listeners:
            listener(event)

    def progress(self, task: str) -> TaskProgress:
        """Return what the step of one task speaks to."""
        return TaskProgress(self, task)


class TaskProgress(NamedTuple):
    """The `Progress` of one task."""

    watch: EventBus
    task: str

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Say that a phase begins."""
        self.watch.say(self.task, "phase", {"phase": name, **facts})

    def advance(self, size: int) -> None:
        """Say that `size` more bytes are done."""
        self.watch.say(self.task, "advance", {"size": size})

    def warn(self, message: str) -> None:
        """Say one line that a person should read."""
        self.watch.say(self.task, "warn", {"message": message})

    def check(self) -> None:
        """Return at once, or stop the work.

        Raises:
            CancelledError: the run was asked to stop.
        """
        if self.watch.stopping:
            raise CancelledError(f"{self.task} was asked to stop")


def to_stderr(event: Event) -> None:
    """Write warnings, why a task is skipped, and for whom a task waits, on stderr: one flushed line each."""
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
    """Write one flushed line on stderr, if there is one."""
    if sys.stderr is not None:
        sys.stderr.write(f"{escaped(message)}\n")
        sys.stderr.flush()


_LINES: Final = LineProgress(write_to_stderr, describe_wait)


#: The run of this process.
BUS: Final = EventBus()
