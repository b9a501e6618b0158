"""Standard output of actions in several threads, captured for each thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from doit.action import PythonAction
from doit.task import Task

from tasks_lib.engine.stdio import thread_local_stdio


def printed(act: Callable[[], None]) -> Any:
    """Return the output that an action of doit captured."""
    task = Task("task", [act])  # type: ignore[no-untyped-call]  # doit has no types
    task.options = {}
    action = PythonAction(act, task=task)  # type: ignore[no-untyped-call]
    action.execute()  # type: ignore[no-untyped-call]
    return action.out


def test_a_run_within_an_action() -> None:
    """A nested run in the same process does not mix the output of the outer run's threads when it ends."""
    began, ends = threading.Event(), threading.Event()
    before, kept = sys.stdout, list[Any]()

    def first() -> None:
        began.set()
        ends.wait(10)
        sys.stdout.write("first")

    def second() -> None:
        began.wait(10)
        ends.set()
        worker.join(10)
        sys.stdout.write("second")

    def outer() -> None:
        with thread_local_stdio():
            sys.stdout.write("inner ")
        sys.stdout.write("outer")

    with thread_local_stdio():
        kept.append(printed(outer))
        worker = threading.Thread(target=lambda: kept.append(printed(first)))
        worker.start()
        kept.append(printed(second))
    assert kept == ["inner outer", "first", "second"]
    assert sys.stdout is before
