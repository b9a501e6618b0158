"""Signals that stop a run, and the child processes that must end with it."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from tasks_lib.fs.system_calls import child_processes
from tasks_lib.ui.events import BUS


class Interruption:
    """Handler of the signals that stop a run; while installed, they only set a flag."""

    SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.signal = 0
        self.times = 0
        self.wake: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number
        self.times += 1
        BUS.ask_to_stop()
        self.wake.put(None)  # reentrant; Source: Python documentation of queue.SimpleQueue

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals that are not ignored (as SIGHUP is under nohup), if this is the main thread.

        Afterwards all state is saved, so Ctrl-C then ends the process at once, without Python's traceback.
        """
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for one in self.SIGNALS:
                if signal.getsignal(one) is not signal.SIG_IGN:
                    before[one] = signal.signal(one, self._note)
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, signal.SIG_DFL if handler is signal.default_int_handler else handler)

    @property
    def status(self) -> int:
        """Exit status of a process that a signal ended. Source: POSIX shell, section 2.8.2."""
        return 128 + self.signal


def stop_children() -> None:
    """Kill the remaining child processes: commands of tasks that did not stop in time."""
    for child in child_processes():
        _kill(child)


def _kill(child: int) -> None:
    with contextlib.suppress(OSError):
        if os.getpgid(child) == child:
            os.killpg(child, signal.SIGKILL)
        else:
            os.kill(child, signal.SIGKILL)
