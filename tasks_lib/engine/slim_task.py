"""Tasks of a small class: doit's own keeps twelve kilobytes of every task until the end of a run.

A `SlimTask` has in its class everything that all of our tasks have in common. A finished task keeps only what doit, a
reporter or the snapshot still asks for. Tasks that users define in their own dodo.py stay as they are.
Source: doit 0.37, `Task`, `ExecNode`; tests compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from doit.action import PythonAction, create_action
from doit.exceptions import BaseFail, TaskError
from doit.task import IOConfig, Task

from tasks_lib.graph.names import GROUPS

#: Dependencies of one task from which on looking for one of them in a list costs more than a set beside it.
_MANY_NEEDS: Final = 256


def _done() -> None:
    """Replace an action that has run."""


#: A placeholder for the actions of a task: doit asks whether there are any, and for their output.
_SOME: Final = (PythonAction(_done),)  # type: ignore[no-untyped-call]  # doit has no types
#: The remaining steps of a finished node. This and the following values are shared and never change.
_NO_STEPS: Final[Iterator[Any]] = iter(())
_NO_WORDS: Final[dict[str, Any]] = {}
_NO_LIST: Final[list[Any]] = []
_NO_SET: Final[frozenset[Any]] = frozenset()
#: Attributes that are not sent to another process. Source: doit 0.37, `Task.pickle_safe_dict`.
_NOT_SENT: Final = frozenset({"_actions", "_check", "_clean"})


class IndexedNames(list[str]):
    """A long list of task names with constant-time membership tests.

    doit looks for the creator of each file dependency in it. Source: doit 0.37, `TaskControl.add_implicit_task_dep`.
    """

    __slots__ = ("_known",)

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(names)
        self._known = frozenset(self)

    def __contains__(self, name: object) -> bool:
        """Whether the list holds a name, including names added later."""
        return name in self._known or super().__contains__(name)


_TASK: Any = Task  # doit has no types


class SlimTask(_TASK):  # type: ignore[misc]
    """One of our tasks: one action that returns a dict or fails, one check, no options, no output of its own."""

    params = watch = ()
    creator_params = setup_tasks = wild_dep = value_savers = teardown = _NO_LIST
    options = getargs = _NO_WORDS
    pos_arg = pos_arg_val = loader = cfg_values = custom_title = _action_instances = None
    result: Any
    io = IOConfig({"capture": False})  # type: ignore[no-untyped-call]
    verbosity = 2
    has_subtask = False

    def __init__(self, name: str, group: str, definition: dict[str, Any]) -> None:
        """Create the task from a dict in doit's format."""
        self.name, self.subtask_of = name, group
        self.doc, self.meta = definition["doc"], definition["meta"]
        self._actions = definition["actions"]
        ((self._check),) = definition["uptodate"]
        needs: list[str] = definition.get("task_dep") or []
        self.task_dep = IndexedNames(needs) if len(needs) > _MANY_NEEDS else needs
        self.file_dep = set(definition["file_dep"]) if definition.get("file_dep") else _NO_SET
        self.targets: list[str] = definition["targets"]
        self._clean = definition["clean"]
        # set during a run: an attribute that is new to the class would give each task a larger table
        self.executed, self.result, self.values, self.dep_changed = False, None, _NO_WORDS, None

    @property
    def calc_dep(self) -> set[str]:
        """Always empty: our tasks do not compute dependencies."""
        return set()

    @property
    def uptodate(self) -> list[tuple[Any, list[Any], dict[str, Any]]]:
        """The check in doit's format."""
        return [] if self._check is None else [(self._check, _NO_LIST, _NO_WORDS)]

    @property
    def actions(self) -> tuple[Any, ...]:
        """A placeholder that shows that there is an action."""
        return _SOME

    @property
    def _remove_targets(self) -> bool:
        return self._clean is True

    @property
    def clean_actions(self) -> list[Any]:
        """The actions of `doit clean`."""
        kept = () if self._clean is True else self._clean
        return [create_action(one, self, "clean") for one in kept]  # type: ignore[no-untyped-call]

    def init_options(self, args: list[str] | None = None) -> list[str] | None:
        """Return all words after the task name on the command line: the task has no options."""
        return args

    def overwrite_verbosity(self, stream: object) -> None:
        """Ignore it: our tasks write no output of their own."""

    def execute(self, _stream: object) -> BaseFail | None:
        """Run the action; return an exception as doit does."""
        self.executed = True
        ((action,),) = self._actions
        try:
            slim_tasks = action()
        except Exception as error:
            return TaskError("PythonAction Error", error)  # type: ignore[no-untyped-call]
        if isinstance(slim_tasks, BaseFail):
            return slim_tasks
        self.values = slim_tasks
        self.result = slim_tasks["key"] or "skipped"  # compared by `result_dep` of a user's task
        return None

    def pickle_safe_dict(self) -> dict[str, Any]:
        """Return the attributes that are sent to another process."""
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_SENT}

    def release(self) -> None:
        """Drop the action and its result; call when the success is recorded."""
        self.result, self.values, self.dep_changed, self._actions = None, _NO_WORDS, None, _SOME

    def release_checks(self) -> None:
        """Drop the check; call when a row of the snapshot replaces it."""
        self._check = self._clean = None
        self.targets = _NO_LIST
        self.file_dep = _NO_SET


def slim_tasks(described: Iterable[dict[str, Any]]) -> Iterator[Task]:
    """Yield the groups, then the tasks from dicts in doit's format."""
    groups = empty_groups()
    tasks: list[Task] = []
    for one in described:
        group, name = one["basename"], one.get("name", "")
        if name is None:
            continue
        if name:
            tasks.append(SlimTask(f"{group}:{name}", group, one))
            if one.get("is_grouped", True):
                groups[group].task_dep.append(tasks[-1].name)
        else:  # outside of the groups
            del one["basename"]
            tasks.append(Task(group, **one))  # type: ignore[no-untyped-call]
    yield from groups.values()
    yield from tasks


def empty_groups() -> dict[str, Task]:
    """Return the groups without any task in them."""
    return {
        name: Task(name, None, doc=doc, has_subtask=True)  # type: ignore[no-untyped-call]
        for name, doc in GROUPS.items()
    }


def release_node(node: Any) -> None:
    """Drop the dependencies and dependents of a node; call when doit knows that it is done."""
    node.generator = _NO_STEPS
    node.calc_dep = node.wait_run = node.wait_run_calc = node.waiting_me = _NO_SET
    node.ancestors = node.task_dep = node.bad_deps = node.ignored_deps = _NO_LIST
