"""Commands that explain tasks: `info` shows a task, `why` says why it would run, `graph` draws dependencies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from doit.cmd_info import opt_hide_status
from doit.control import TaskControl

from tasks_lib.cli.commands import TaskCommand
from tasks_lib.cli.info_json import describe_task
from tasks_lib.engine.base_command import (
    JSON,
    OFFLINE,
    OUTPUT_FILE,
    format_option,
    format_write_error,
    require_session,
    usage_error,
)
from tasks_lib.errors import escape_text
from tasks_lib.graph import render
from tasks_lib.graph.actions import step_of
from tasks_lib.graph.checks import UpToDateCheck, note_of
from tasks_lib.incremental.selection import needed
from tasks_lib.session import current_session
from tasks_lib.steps import Artifact, find_integrity
from tasks_lib.ui.events import stderr_progress

_FORMAT: Final = format_option(("mermaid", "for Markdown pages"), ("dot", "for Graphviz"), ("json", "for programs"))
_INFO_FORMAT: Final = format_option(("text", "for people"), ("json", "one list of objects, for programs"))


class _ExplainCommand(TaskCommand):
    """Base class of the three commands: doit's tasks with all their edges."""

    def control(self) -> TaskControl:
        """Return doit's view of the tasks, in which each input that another task makes is a dependency."""
        return TaskControl(self.task_list)  # type: ignore[no-untyped-call]

    def status_of(self, task: Any, control: TaskControl) -> tuple[str, list[str]]:
        """Return doit's name for the state of a task, and the reasons why it would run."""
        if self.dep_manager.status_is_ignore(task):
            return "ignored", ["`doit forget` makes it run again"]
        status = self.dep_manager.get_status(task, control.tasks, get_log=True)
        state = status.status
        missing = status.reasons.get("missing_file_dep")
        if state == "error" and missing and all(path in control.targets for path in missing):
            state = "run"  # other tasks make what is missing
        return state, explain(task, status, self.dep_manager.get_values(task.name), control.targets)


class InfoCommand(_ExplainCommand):
    """`doit info`."""

    name = "info"
    doc_usage = "TASK/TARGET..."
    doc_description = None
    cmd_options = (opt_hide_status, _INFO_FORMAT, JSON, OFFLINE)

    def _execute(self, pos_args: list[str], hide_status: bool = False, format: str = "text") -> int:
        """Show the tasks; return 1 if one is not up to date, as doit does."""
        if not pos_args:
            raise usage_error("`info` needs a task\n`doit help info` shows its options")
        control = self.control()
        self._users: dict[str, set[str]] = {}
        for task in self.task_list:
            for name in task.task_dep:
                self._users.setdefault(name, set()).add(task.name)
        tasks = [control.tasks[name] for name in pos_args]
        known = {task.name: self.status_of(task, control) for task in tasks if task.actions and not hide_status}
        if self.params["json"] or format == "json":
            self._write_json(tasks, known)
        else:
            for task in tasks:
                self._show(task, *known.get(task.name, ("", [])))
        return int(any(state not in ("up-to-date", "ignored") for state, _ in known.values()))

    def _write_json(self, tasks: list[Any], known: Mapping[str, tuple[str, list[str]]]) -> None:
        definitions = require_session(f"{self.name} --format json").definitions
        found = []
        for task in tasks:
            state, reasons = known.get(task.name, (None, []))
            facts = describe_task(
                task, definitions, state=state, reasons=reasons, users=self._users_of(task), history=self._history(task)
            )
            found.append({**facts, "stores": _list_holders(task)})
        self.outstream.write(f"{json.dumps(found, indent=2)}\n")

    def _users_of(self, task: Any) -> set[str]:
        users: set[str] = self.loader.users(task.name) | self._users.get(task.name, set())
        return users - {task.subtask_of}

    def _show(self, task: Any, state: str, why: list[str]) -> None:
        write = self.outstream.write
        write(f"\n{escape_text(task.name)}\n" + (f"\n{escape_text(task.doc)}\n" if task.doc else ""))
        if state:
            write(f"\nstatus     : {state}\n" + "".join(f" * {one}\n" for one in why))
        meta = {key: value for key, value in (task.meta or {}).items() if key != "pool"}
        holders = _list_holders(task)
        held = {} if holders is None else {"held by": [f"store {name}" for name in holders] or "no store"}
        for name, value in (meta | self._history(task) | held).items():
            write(f"\n{name:11s}: {_format_lines(value)}")
        for name, values in (
            ("file_dep", sorted(task.file_dep)),
            ("task_dep", task.task_dep),
            ("setup_tasks", task.setup_tasks),
            ("calc_dep", sorted(task.calc_dep)),
            ("targets", task.targets),
            ("getargs", task.getargs),
            ("params", list(task.params)),
            ("used by", sorted(self._users_of(task))),
        ):
            if values:
                write(f"\n{name:11s}: {_format_lines(values)}")

    def _history(self, task: Any) -> dict[str, Any]:
        """Return the recorded provenance of the output: its source, how long it took, who signed it."""
        history: dict[str, Any] = {}
        for check, *_ in task.uptodate:
            if isinstance(check, UpToDateCheck):
                history |= check.history()
        return history


def _list_holders(task: Any) -> list[str] | None:
    """Return the shared stores that hold the output of a task, asked now; None without a store or an artifact."""
    session = current_session()
    fleet = session.context.fleet if session is not None else None
    if session is None or fleet is None:
        return None
    arguments = (one for check, *_ in task.uptodate if isinstance(check, UpToDateCheck) for one in check.arguments[1:])
    for one in arguments:
        artifact = getattr(one, "output", one)
        if isinstance(artifact, Artifact):
            integrity = find_integrity(session.context, artifact)
            return fleet.list_holders(integrity, artifact.key, stderr_progress())
    return None


def _format_lines(value: object) -> str:
    if isinstance(value, list | tuple):
        return "\n" + "".join(f" - {escape_text(str(one))}\n" for one in value)
    if isinstance(value, Mapping):
        return "\n" + "".join(f" - {escape_text(str(key))}: {escape_text(str(one))}\n" for key, one in value.items())
    return f"{escape_text(str(value))}\n"


class WhyCommand(_ExplainCommand):
    """`doit why`."""

    name = "why"
    doc_usage = "[TASK/TARGET...]"
    doc_description = "Without names: the default tasks. Runs nothing."
    cmd_options = (OFFLINE,)

    def _execute(self, pos_args: list[str]) -> int:
        del pos_args  # they are `sel_tasks`
        control = self.control()
        selected = self.loader.selection(self.task_list, self.sel_tasks)
        running: dict[str, list[str]] = {}
        ignored: dict[str, list[str]] = {}
        tasks = [task for task in _in_dependency_order(control.tasks, selected) if task.actions]
        for task in tasks:
            state, why = self.status_of(task, control)
            before = [name for name in task.task_dep if name in running]
            held = [name for name in task.task_dep if name in ignored]
            if state == "ignored" or held:
                ignored[task.name] = [
                    f"it is ignored because {', '.join(held[:5])} is ignored"
                    if held
                    else f"it is ignored: {'; '.join(why)}"
                ]
            elif state != "up-to-date":
                running[task.name] = why
            elif before:
                running[task.name] = [f"it is up to date, but {', '.join(before[:5])} would run first"]
        shown = running | ignored
        for task in tasks:
            if note := note_of(task):
                shown[task.name] = list(dict.fromkeys([*shown.get(task.name, ()), escape_text(note)]))
        for name, why in shown.items():
            self.outstream.write(f"{escape_text(name)}\n" + "".join(f"  {one}\n" for one in why))
        self.outstream.write(f"{_summarize(len(tasks), len(running), len(ignored))}\n")
        return 0


def _summarize(tasks: int, running: int, ignored: int) -> str:
    """Return a line that says how many tasks may run: a task is checked again after its dependencies have run."""
    if running:
        return f"{running} of {tasks} task{'' if tasks == 1 else 's'} may run"
    return f"nothing to do: {tasks - ignored} up to date" + (f", {ignored} ignored" if ignored else "")


def _in_dependency_order(tasks: Mapping[str, Any], selected: Iterable[str]) -> list[Any]:
    """Return the selected tasks and their dependencies, dependencies first."""
    order: dict[str, Any] = {}
    for name in selected:
        stack = [(name, "enter")]
        while stack:
            one, step = stack.pop()
            if step == "leave":
                order[one] = tasks[one]
            elif one not in order:
                stack.append((one, "leave"))
                stack += [(other, "enter") for other in (*tasks[one].task_dep, *tasks[one].setup_tasks)]
    return list(order.values())


class GraphCommand(_ExplainCommand):
    """`doit graph`."""

    name = "graph"
    doc_usage = "[TASK/TARGET...]"
    doc_description = "Without names: the default tasks. Runs nothing and needs no other program."
    cmd_options = (_FORMAT, OUTPUT_FILE)

    def _execute(self, pos_args: list[str], format: str, into: str) -> int:
        del pos_args  # they are `sel_tasks`
        control = self.control()
        selected = self.loader.selection(self.task_list, self.sel_tasks)
        nodes = sorted((task for task in needed(control.tasks, selected) if task.actions), key=lambda task: task.name)
        text = render.FORMATS[format](nodes)
        if not into:
            self.outstream.write(text)
            return 0
        try:
            Path(into).write_text(text, "utf-8")
        except OSError as error:
            raise usage_error(format_write_error(into, error)) from None
        return 0


_SENTENCES: Final = {
    "missing_target": "is missing",
    "changed_file_dep": "has changed",
    "added_file_dep": "is a new input",
    "removed_file_dep": "is no longer an input",
}


def explain(task: Any, status: Any, values: Mapping[str, Any], makers: Mapping[str, str]) -> list[str]:
    """Return why a task would run, most important reason first; [] if it would not.

    `status` is doit's, with its log; `values` were saved by the last success; `makers` maps the path of a target to its
    task.
    """
    if status.status == "up-to-date":
        return []
    reasons = list(_explain_checks(task, status, values))
    for kind, sentence in _SENTENCES.items():
        reasons += [f"{escape_text(path)} {sentence}" for path in sorted(status.reasons.get(kind) or ())]
    for path in sorted(status.reasons.get("missing_file_dep") or ()):
        maker = makers.get(path)
        reasons.append(f"{escape_text(path)} does not exist yet" + (f": {maker} makes it" if maker else ""))
    if status.reasons.get("checker_changed"):
        reasons.append("the method of comparing files changed")
    if status.reasons.get("has_no_dependencies"):
        reasons.append("it has no dependencies or checks: it runs every time")
    return list(dict.fromkeys(reasons))


def _explain_checks(task: Any, status: Any, values: Mapping[str, Any]) -> Iterator[str]:
    for check, *_ in status.reasons.get("uptodate_false") or ():
        if not isinstance(check, UpToDateCheck):
            yield f"its own check is false: {escape_text(str(check))}"
        elif not values:
            adopts = "" if check.note() else "; content in the cache is adopted"
            yield f"it has not run here yet, or was forgotten{adopts}"
        elif values.get("key") == check.key:
            yield from check.explain_change()
        else:
            yield from _differences(task, values)


def _differences(task: Any, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the identity inputs that differ from those of the last success."""
    step = step_of(task)
    before, now = values.get("identity"), step.identity if step is not None else {}
    if values.get("key") == "":
        yield "its command was skipped last time, because it cannot run here; it is tried again"
    elif not isinstance(before, dict) or not now:
        yield "its recipe changed"
    else:
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if old != new:
                yield f"{escape_text(name)} was {_format_value(old)}, is {_format_value(new)}"


def _format_value(value: object) -> str:
    return "absent" if value is None else escape_text(str(value))[:100]
