"""What is dropped of a task that is done is what nobody asks for."""

from __future__ import annotations

from typing import Any

from doit.task import Task

from tasks_lib.graph import lean


class Ours:
    """A check that says by what it knows."""

    def __call__(self) -> bool:
        return True

    def witnesses(self) -> tuple[str, ...]:
        return ()


def act() -> dict[str, int]:
    return {"key": 1}


def made(check: Any) -> Any:
    task = Task("a:b", [act], targets=["t"], file_dep=["f"], task_dep=["c"], uptodate=[check], meta={"size": 1})  # type: ignore[no-untyped-call]
    lean.compact(task)
    assert len(task.actions) == 1
    task.values = {"key": 1}
    return task


def test_a_task_of_ours_keeps_what_is_asked_for() -> None:
    """Whether it had actions and what they wrote, its edges, its targets, its checks and its facts stay."""
    task = made(Ours())
    lean.release_task(task)
    assert task.actions
    assert [(action.out, action.err) for action in task.actions] == [(None, None)]
    assert (task.targets, task.file_dep, task.task_dep, task.meta) == (["t"], {"f"}, ["c"], {"size": 1})
    assert isinstance(task.uptodate[0][0], Ours)
    assert task.values == {}


def test_a_task_of_others_is_left_alone() -> None:
    """Its values may be asked for by another task."""
    task = made(True)
    lean.release_task(task)
    assert task.values == {"key": 1}
    assert task.actions[0].py_callable is act
