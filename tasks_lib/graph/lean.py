"""What doit holds of each task, made small: it keeps twelve kilobytes of every task to the end of a run.

Nothing that doit, a reporter or the stamp still asks for is dropped: what a finished task was to do, and for whom it
waited. Tasks whose checks are not ours are left as they are.
Source: doit 0.37, `Task`, `ExecNode`, `TaskDispatcher`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from doit.action import PythonAction
from doit.task import IOConfig


def _done() -> None:
    """Stand for what was done."""


#: What is left of the steps of a finished node; shared, as all that follows: it never changes.
_NO_STEPS: Final[Iterator[Any]] = iter(())
#: Stands for the actions of a task that is done: doit asks whether it had any, and what they wrote.
_DONE: Final = (PythonAction(_done),)  # type: ignore[no-untyped-call]  # doit has no types
#: What stands for empty lists and sets, of which each task has a dozen.
_NO_WORDS: Final[dict[str, Any]] = {}
_EMPTY: Final[dict[type, Any]] = {list: (), set: frozenset(), dict: _NO_WORDS, tuple: ()}
_NOT_CAPTURED: Final = IOConfig({"capture": False})  # type: ignore[no-untyped-call]
#: Attributes that doit fills when a task is made, or never.
_NEVER_FILLED: Final = ("getargs", "teardown", "wild_dep", "value_savers")


def compact(task: Any) -> Any:
    """Return a new task in half the room: its attributes are too many for the table that objects of a class share."""
    task.__dict__ = dict(task.__dict__)
    if task.io.capture is False:
        task.io = _NOT_CAPTURED
    for name in _NEVER_FILLED:
        if not (value := getattr(task, name)):
            setattr(task, name, _EMPTY[type(value)])
    return task


def release_node(node: Any) -> None:
    """Drop what a node waited for, and who waited for it; call when doit knows that it is done."""
    node.generator = _NO_STEPS
    node.calc_dep = node.wait_run = node.wait_run_calc = node.waiting_me = _EMPTY[set]
    node.ancestors = node.task_dep = node.bad_deps = node.ignored_deps = _EMPTY[list]


def release_task(task: Any) -> None:
    """Drop what a task did and gave; call when its success is recorded."""
    if not task.uptodate or not all(hasattr(check, "witnesses") for check, *_ in task.uptodate):
        return
    task._actions = task._action_instances = _DONE
    task.values, task.result, task.dep_changed = _NO_WORDS, None, _EMPTY[list]
    task.uptodate = [(check, (), _NO_WORDS) for check, *_ in task.uptodate]
    for name, value in task.__dict__.items():
        if not value and type(value) in _EMPTY:
            setattr(task, name, _EMPTY[type(value)])


def release_checks(task: Any) -> None:
    """Drop what a task was checked by; call when a row of the stamp stands for that."""
    task.uptodate = task.targets = task.clean_actions = _EMPTY[list]
    task.file_dep = _EMPTY[set]
