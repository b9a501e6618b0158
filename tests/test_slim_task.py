"""Slim tasks: equal to doit's in every attribute, dispatched in batches, and without state that is used after dropping it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from doit.control import TaskControl
from doit.exceptions import TaskError, TaskFailed
from doit.task import Task

from tasks_lib import session
from tasks_lib.definitions import Fetch
from tasks_lib.engine import slim_task
from tasks_lib.graph.task_info import TaskInfo
from tasks_lib.incremental import definition_cache
from tasks_lib.settings import Settings
from tests.project import definition, written


class Check:
    """An up-to-date check that compares by its field."""

    def __call__(self) -> bool:
        return True


class Act:
    """An action that returns a given value."""

    def __init__(self, gives: Any) -> None:
        self.gives = gives

    def __call__(self) -> Any:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


def remove(path: str, dryrun: bool) -> None:
    """Clean."""


CHECK, ACT = Check(), Act({"key": "k", "identity": {"a": "b"}})
BOTH: dict[str, Any] = {
    "basename": "extract", "name": "a", "doc": "d", "actions": [(ACT,)], "io": {"capture": False}, "verbosity": 2,
    "targets": ["t"], "uptodate": [CHECK], "meta": {"pool": "cpu"},
}  # fmt: skip
TASKS: dict[str, dict[str, Any]] = {
    "made of something": {**BOTH, "file_dep": ["f", "g"], "task_dep": ["fetch:a"], "clean": [(remove, ["x"])]},
    "made of nothing": {**BOTH, "clean": True},
}


def both(facts: dict[str, Any]) -> tuple[Any, Any]:
    words = {key: value for key, value in facts.items() if key not in ("basename", "name")}
    stock = Task("extract:a", subtask_of="extract", **words)  # type: ignore[no-untyped-call]  # doit has no types
    return stock, slim_task.SlimTask("extract:a", "extract", facts)


def plain(value: Any) -> Any:
    """Return a comparable form of a value."""
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, set | frozenset):
        return set(value)
    known = type(value).__name__ in ("IOConfig", "PythonAction")
    return {name: plain(one) for name, one in vars(value).items() if name != "task"} if known else value


@pytest.mark.parametrize("name", TASKS)
def test_same_attributes_as_doit(name: str) -> None:
    """Every attribute that doit, a reporter or a command reads equals doit's, also after pickling."""
    stock, ours = both(TASKS[name])
    stock.init_options()  # before anything runs
    known = vars(stock).keys()
    for one in known:
        assert plain(getattr(ours, one)) == plain(getattr(stock, one)), one
    assert [plain(one) for one in ours.clean_actions] == [plain(one) for one in stock.clean_actions]
    assert len(ours.actions) == len(stock.actions) == 1
    stock_back, back = both(TASKS[name])
    back.update_from_pickle(ours.pickle_safe_dict())
    stock_back.update_from_pickle(stock.pickle_safe_dict())
    for one in known:
        assert plain(getattr(back, one)) == plain(getattr(stock_back, one)), one


def test_class_attributes_do_not_change() -> None:
    """Creating, running and releasing tasks does not change class attributes."""
    for facts in TASKS.values():
        ours = slim_task.SlimTask("extract:a", "extract", facts)
        assert ours.execute(None) is None
        ours.calc_dep.add("x")
        ours.save_extra_values()
        ours.release()
        ours.release_checks()
    assert ([], {}, frozenset()) == (slim_task._NO_LIST, slim_task._NO_WORDS, slim_task._NO_SET)
    assert slim_task.SlimTask("extract:b", "extract", TASKS["made of nothing"]).calc_dep == set()


FAIL = TaskFailed("no")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "gives", [{"key": "k", "identity": {}}, {"key": ""}, FAIL, ValueError("x"), LookupError("x")], ids=repr
)
def test_same_result_as_doit(gives: Any) -> None:
    """The result or exception of an action is the same as with doit."""
    stock, ours = both({**TASKS["made of nothing"], "actions": [(Act(gives),)]})

    class Stream:
        def _get_out_err(self, _verbosity: int) -> tuple[None, None]:
            return None, None

    expected, found = stock.execute(Stream()), ours.execute(Stream())
    assert type(found) is type(expected)
    assert (ours.values, ours.executed) == (stock.values, stock.executed)
    assert bool(ours.result) == bool(stock.result)
    if isinstance(expected, TaskError):
        assert found.message == expected.message
        assert found.traceback[-1] == expected.traceback[-1] == f"{type(gives).__name__}: x\n"


def test_pickled_task_has_no_action() -> None:
    """With `-P process`, neither doit's tasks nor ours contain actions that run only in the main process."""
    stock, ours = both(TASKS["made of something"])
    assert not {"_actions", "_action_instances", "_check", "_clean", "uptodate"} & ours.pickle_safe_dict().keys()
    assert not {"_actions", "_action_instances", "clean_actions"} & stock.pickle_safe_dict().keys()
    assert ours.pickle_safe_dict()["values"] == stock.pickle_safe_dict()["values"]


def test_arguments_after_a_task_name() -> None:
    """Doit parses the arguments after a task name itself."""
    control = TaskControl(
        [
            slim_task.SlimTask(f"extract:{one}", "extract", {**TASKS["made of nothing"], "targets": [one]})
            for one in "ab"
        ]
    )  # type: ignore[no-untyped-call]
    control.process(["extract:a", "extract:b"])  # type: ignore[no-untyped-call]
    assert control.selected_tasks == ["extract:a", "extract:b"]


class Counted(str):
    """A name that counts its comparisons."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str(self) is str(other) or str.__eq__(self, other)


def test_dependencies_are_not_compared_pairwise() -> None:
    """Doit looks up the producer of each file among the dependencies: the work is linear in their number."""
    numbers = range(1000)
    makers = [
        slim_task.SlimTask(Counted(f"extract:{one}"), "extract", {**TASKS["made of nothing"], "targets": [str(one)]})
        for one in numbers
    ]
    needs = {"task_dep": [f"extract:{one}" for one in numbers], "file_dep": [str(one) for one in numbers]}
    kit = slim_task.SlimTask("toolchain:kit", "toolchain", {**TASKS["made of nothing"], **needs})
    Counted.compared = 0
    TaskControl([kit, *makers])  # type: ignore[no-untyped-call]
    assert len(kit.task_dep) == len(numbers)
    assert Counted.compared < 10 * len(numbers)
    kit.task_dep.append("extract:more")
    assert "extract:more" in kit.task_dep
    assert "extract:none" not in kit.task_dep


def test_finished_task_keeps_what_is_used() -> None:
    """A finished task keeps whether it had actions, their output, its edges, targets, check and facts."""
    _, ours = both(TASKS["made of something"])
    assert ours.execute(None) is None
    ours.release()
    assert [(action.out, action.err) for action in ours.actions] == [(None, None)]
    assert (ours.targets, ours.file_dep, ours.task_dep, ours.meta) == (["t"], {"f", "g"}, ["fetch:a"], {"pool": "cpu"})
    assert (ours.uptodate[0][0], ours.values, ours.result) == (CHECK, {}, None)


def test_a_finished_task_keeps_no_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand finished tasks do not keep their definitions; the facts of each are still known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(definition_cache, "MANY", 20)
    monkeypatch.setattr(definition_cache, "_CHUNK", 1)
    text = "".join(definition(f"d{number}", f"https://example.org/d{number}", b"x") for number in range(20))
    written(tmp_path / "fetchdefs", {"fetch/all.yml": text})
    for _ in range(2):  # the second session has the cache of parsed definitions
        found = session.Session(Settings.parse(variables={}, environ={}), {})
        ours = [one for one in slim_task.slim_tasks(found.graph.tasks()) if isinstance(one, slim_task.SlimTask)]
    assert sum(map(_is_definition_of_this_test, gc.get_objects())) >= 20
    for one in ours:
        one.release()
        one.release_checks()
    gc.collect()
    assert sum(map(_is_definition_of_this_test, gc.get_objects())) <= 1, "the last one is kept"
    assert [one.meta.brief()["artifact"] for one in ours] == [f"d{number}" for number in range(20)]
    assert all(one.meta["recipe_key"] and one.meta["pool"] == "network" for one in ours)


def _is_definition_of_this_test(one: object) -> bool:
    return isinstance(one, Fetch) and one.description.startswith("the d")


# --- groups


def test_facts_are_described_alike() -> None:
    """One by one, all at once and as a plain dict the facts of a task are the same, its class of workers among them."""
    facts = TaskInfo("cpu", lambda key: {"recipe_key": key, "size": 1}, "k")
    assert dict(facts.items()) == {name: facts[name] for name in facts} == {"recipe_key": "k", "size": 1, "pool": "cpu"}
    assert (len(facts), facts.get("size"), facts.get("other")) == (3, 1, None)
