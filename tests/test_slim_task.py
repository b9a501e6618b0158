"""Slim tasks: equal to doit's in every attribute, dispatched in batches, and without state that is used after dropping it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from doit.control import TaskControl, TaskDispatcher
from doit.exceptions import TaskError, TaskFailed
from doit.task import Task

from tasks_lib.engine import slim_task
from tasks_lib.graph.task_info import TaskInfo


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
TOLD: dict[str, dict[str, Any]] = {
    "made of something": {**BOTH, "file_dep": ["f", "g"], "task_dep": ["fetch:a"], "clean": [(remove, ["x"])]},
    "made of nothing": {**BOTH, "clean": True},
}


def both(told: dict[str, Any]) -> tuple[Any, Any]:
    words = {key: value for key, value in told.items() if key not in ("basename", "name")}
    stock = Task("extract:a", subtask_of="extract", **words)  # type: ignore[no-untyped-call]  # doit has no types
    return stock, slim_task.SlimTask("extract:a", "extract", told)


def plain(value: Any) -> Any:
    """Return a comparable form of a value."""
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, set | frozenset):
        return set(value)
    known = type(value).__name__ in ("IOConfig", "PythonAction")
    return {name: plain(one) for name, one in vars(value).items() if name != "task"} if known else value


@pytest.mark.parametrize("name", TOLD)
def test_same_attributes_as_doit(name: str) -> None:
    """Every attribute that doit, a reporter or a command reads equals doit's, also after pickling."""
    stock, ours = both(TOLD[name])
    stock.init_options()  # before anything runs
    known = vars(stock).keys()
    for one in known:
        assert plain(getattr(ours, one)) == plain(getattr(stock, one)), one
    assert [plain(one) for one in ours.clean_actions] == [plain(one) for one in stock.clean_actions]
    assert len(ours.actions) == len(stock.actions) == 1
    stock_back, back = both(TOLD[name])
    back.update_from_pickle(ours.pickle_safe_dict())
    stock_back.update_from_pickle(stock.pickle_safe_dict())
    for one in known:
        assert plain(getattr(back, one)) == plain(getattr(stock_back, one)), one


def test_class_attributes_do_not_change() -> None:
    """Creating, running and releasing tasks does not change class attributes."""
    for told in TOLD.values():
        ours = slim_task.SlimTask("extract:a", "extract", told)
        assert ours.execute(None) is None
        ours.calc_dep.add("x")
        ours.save_extra_values()
        ours.release()
        ours.release_checks()
    assert ([], {}, frozenset()) == (slim_task._NO_LIST, slim_task._NO_WORDS, slim_task._NO_SET)
    assert slim_task.SlimTask("extract:b", "extract", TOLD["made of nothing"]).calc_dep == set()


FAIL = TaskFailed("no")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "gives", [{"key": "k", "identity": {}}, {"key": ""}, FAIL, ValueError("x"), LookupError("x")], ids=repr
)
def test_same_result_as_doit(gives: Any) -> None:
    """The result or exception of an action is the same as with doit."""
    stock, ours = both({**TOLD["made of nothing"], "actions": [(Act(gives),)]})

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
    stock, ours = both(TOLD["made of something"])
    assert not {"_actions", "_action_instances", "_check", "_clean", "uptodate"} & ours.pickle_safe_dict().keys()
    assert not {"_actions", "_action_instances", "clean_actions"} & stock.pickle_safe_dict().keys()
    assert ours.pickle_safe_dict()["values"] == stock.pickle_safe_dict()["values"]


def test_arguments_after_a_task_name() -> None:
    """Doit parses the arguments after a task name itself."""
    control = TaskControl(
        [slim_task.SlimTask(f"extract:{one}", "extract", {**TOLD["made of nothing"], "targets": [one]}) for one in "ab"]
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
        slim_task.SlimTask(Counted(f"extract:{one}"), "extract", {**TOLD["made of nothing"], "targets": [str(one)]})
        for one in numbers
    ]
    needs = {"task_dep": [f"extract:{one}" for one in numbers], "file_dep": [str(one) for one in numbers]}
    kit = slim_task.SlimTask("toolchain:kit", "toolchain", {**TOLD["made of nothing"], **needs})
    Counted.compared = 0
    TaskControl([kit, *makers])  # type: ignore[no-untyped-call]
    assert len(kit.task_dep) == len(numbers)
    assert Counted.compared < 10 * len(numbers)
    kit.task_dep.append("extract:more")
    assert "extract:more" in kit.task_dep
    assert "extract:none" not in kit.task_dep


def test_finished_task_keeps_what_is_used() -> None:
    """A finished task keeps whether it had actions, their output, its edges, targets, check and facts."""
    _, ours = both(TOLD["made of something"])
    assert ours.execute(None) is None
    ours.release()
    assert [(action.out, action.err) for action in ours.actions] == [(None, None)]
    assert (ours.targets, ours.file_dep, ours.task_dep, ours.meta) == (["t"], {"f", "g"}, ["fetch:a"], {"pool": "cpu"})
    assert (ours.uptodate[0][0], ours.values, ours.result) == (CHECK, {}, None)


# --- groups


def dispatcher(count: int) -> Any:
    """Return doit's dispatcher of two groups, where each task of the first needs one of the second."""
    told = [
        {
            **TOLD["made of nothing"],
            "basename": "extract",
            "name": f"{n}",
            "task_dep": [f"fetch:{n}"],
            "targets": [f"e{n}"],
        }
        for n in range(count)
    ] + [{**TOLD["made of nothing"], "basename": "fetch", "name": f"{n}", "targets": [f"f{n}"]} for n in range(count)]
    control = TaskControl(list(slim_task.slim_tasks(told)))  # type: ignore[no-untyped-call]
    control.process(["extract", "fetch"])  # type: ignore[no-untyped-call]
    return control.task_dispatcher()  # type: ignore[no-untyped-call]


def walked(one: Any, outcome: Callable[[str], str], ahead: int) -> list[str]:
    """Return the names of the tasks in dispatch order; up to `ahead` run at once."""
    order: list[str] = []
    working: list[Any] = []
    while True:
        try:
            node = next(one.generator)
        except StopIteration:
            for done in working:
                done.run_status = "failure" if done.bad_deps else outcome(done.task.name)
            break
        if node != "hold on":
            order.append(node.task.name)
            working.append(node)
        elif not working:
            raise AssertionError("everybody waits")
        while len(working) > ahead or (node == "hold on" and working):
            done = working.pop(0)
            done.run_status = "failure" if done.bad_deps else outcome(done.task.name)
            one._update_waiting(done)
            if node == "hold on":
                break
    assert not one.waiting
    return order


@pytest.mark.parametrize("ahead", [0, 1, 50, 5000])
@pytest.mark.parametrize("count", [1, slim_task.PORTION, slim_task.PORTION + 1, 3 * slim_task.PORTION + 7])
def test_batches_are_complete(count: int, ahead: int) -> None:
    """Every task comes once, after its dependencies, and a group after all its tasks, as with doit; also when some fail."""
    for bad in ("", "fetch:0", f"extract:{count - 1}"):
        stock, ours = dispatcher(count), dispatcher(count)
        slim_task.Portions(ours)

        def outcome(name: str, bad: str = bad) -> str:
            return "failure" if name == bad else "successful"

        expected, found = walked(stock, outcome, ahead), walked(ours, outcome, ahead)
        assert len(found) == len(set(found))
        assert set(found) == set(expected)
        at = {name: place for place, name in enumerate(found)}
        assert all(at[f"fetch:{n}"] < at[f"extract:{n}"] < at["extract"] for n in range(count))
        assert all(at[f"fetch:{n}"] < at["fetch"] for n in range(count))
        states = [{name: node.run_status for name, node in one.nodes.items()} for one in (stock, ours)]
        assert states[0] == states[1]


def test_only_a_batch_is_prepared() -> None:
    """Tasks are prepared only when workers need more; doit prepares all of them before the first one runs."""
    stock, ours = dispatcher(4 * slim_task.PORTION), dispatcher(4 * slim_task.PORTION)
    slim_task.Portions(ours)
    for one, least, most in (
        (stock, 8 * slim_task.PORTION, 9 * slim_task.PORTION),
        (ours, slim_task.PORTION, 2 * slim_task.PORTION + 2),
    ):
        assert next(one.generator).task.name == "fetch:0"
        assert least <= len(one.nodes) <= most


def test_cycle_in_a_batch() -> None:
    """A task that depends on its own large group is refused, as by doit."""
    from doit.exceptions import InvalidDodoFile

    names = [f"t{n}" for n in range(2 * slim_task.PORTION)]
    made: Any = Task  # doit has no types
    tasks = [
        made("all", None, task_dep=names),
        *(made(name, None, task_dep=["all"] if name == names[-1] else []) for name in names),
    ]
    one = TaskDispatcher({task.name: task for task in tasks}, {}, ["all"])  # type: ignore[no-untyped-call]
    slim_task.Portions(one)
    with pytest.raises(InvalidDodoFile, match="Cyclic"):
        walked(one, lambda _: "successful", 0)


def test_facts_are_equal() -> None:
    """The facts of a task are the same one by one, all at once and as a plain dict, including its pool."""
    facts = TaskInfo("cpu", lambda key: {"recipe_key": key, "size": 1}, "k")
    assert dict(facts.items()) == {name: facts[name] for name in facts} == {"recipe_key": "k", "size": 1, "pool": "cpu"}
    assert (len(facts), facts.get("size"), facts.get("other")) == (3, 1, None)
