"""Load as few tasks as a command of doit needs.

A bare `doit` loads nothing when the snapshot shows that nothing changed, and otherwise the affected definitions with
their dependencies. Named tasks load their closure. A dodo.py with tasks of its own beside ours loads everything, as
doit does; so does every case that is not handled here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from doit.cmd_base import NamespaceTaskLoader
from doit.cmd_list import List as DoitList
from doit.cmd_run import Run as DoitRun
from doit.exceptions import InvalidDodoFile
from doit.loader import TASK_STRING
from doit.task import Task

from tasks_lib.engine import slim_task
from tasks_lib.engine.base_command import YIELDING, has_task, load_dodo, yield_to_task
from tasks_lib.engine.dodo import task_fetchdefs
from tasks_lib.engine.state import snapshot_path
from tasks_lib.errors import DefinitionError, UnknownNameError, escape_lines, escape_text
from tasks_lib.graph.names import GROUPS, is_glob, resolve_names
from tasks_lib.incremental.run_plan import RunPlan, plan_run
from tasks_lib.incremental.selection import (
    Names,
    closure,
    in_order,
    is_task_glob,
    owner_of,
    owners,
)
from tasks_lib.session import Session, current_session
from tasks_lib.units import counted, format_size


class Loader:
    """Wraps doit's loader and chooses which tasks are loaded; everything else is delegated."""

    def __init__(self, inner: Any, command: str = "") -> None:
        """Wrap doit's loader for a command; "" for none."""
        self._inner, self._command = inner, command
        self.run_plan: RunPlan | None = None
        self._tasks: dict[str, Task] = {}
        self._extracted: dict[str, dict[str, list[str]]] = {}
        self._commands: list[str] = []  # names of commands that a word may mean: `doit lst`

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def setup(self, params: Any) -> None:
        """Load the dodo.py.

        Raises:
            InvalidCommand: as `load_dodo`.
        """
        load_dodo(self._inner, params)
        yield_to_task(self._command, self._inner)
        own = {name for name in YIELDING if has_task(self._inner, name)}
        self._inner.cmd_names = [name for name in self._inner.cmd_names if name not in own]

    def has_own_names(self) -> bool:
        """Return whether dodo.py defines or imports anything that is not ours, and so may leave a file open."""
        ours = vars(sys.modules["doit_fetch"]) if "doit_fetch" in sys.modules else {}
        return any(
            name not in ours or not (name.startswith("__") or ours[name] is value)
            for name, value in (getattr(self._inner, "namespace", None) or {}).items()
        )

    def load_tasks(self, cmd: Any, pos_args: list[str]) -> list[Task]:
        """Return the tasks that a command needs.

        Raises:
            InvalidDodoFile: the definitions are wrong.
        """
        found = current_session()
        self._commands = list(self._inner.cmd_names) if cmd.execute_tasks else []
        if found is None:
            return self._all(cmd, pos_args)
        try:
            if any("@" in word for word in pos_args) and _has_ours(getattr(self._inner, "namespace", None)):
                pos_args[:] = map(found.definitions.canonical_name, pos_args)
            given = [word for word in pos_args if not is_glob(word)]
            tasks = self._load(found, cmd, pos_args)
            if cmd.execute_tasks and given:
                self._refuse_skipped(tasks, given)
        except DefinitionError as error:
            raise InvalidDodoFile(escape_lines(str(error))) from None
        return tasks

    def _load(self, found: Session, cmd: Any, pos_args: list[str]) -> list[Task]:
        if not _only_ours(getattr(self._inner, "namespace", None)):
            named = self._named_to_run if cmd.execute_tasks else self._named
            return named(self._all(cmd, pos_args), pos_args)
        return self._configured(self._chosen(found, cmd, pos_args))

    def _refuse_skipped(self, tasks: Iterable[Task], words: Iterable[str]) -> None:
        """Refuse definitions that are named although they are not available for the platform of this run.

        Raises:
            UnknownNameError: there is one.
        """
        own = (one for one in tasks if isinstance(one, slim_task.SlimTask))
        skipped = {one.name: one.meta for one in own if isinstance(one.meta, dict)}  # the others compute their details
        for name in (name for word in words for name in self._perhaps(word) if skipped):
            if meta := skipped.get(name):
                raise UnknownNameError(f"{name}: {meta['skipped']}", hint=meta["hint"] or f"see {meta['defined']}")

    def _all(self, cmd: Any, pos_args: list[str]) -> list[Task]:
        tasks: list[Task] = self._inner.load_tasks(cmd=cmd, pos_args=pos_args)
        return tasks

    def _configured(self, tasks: list[Task]) -> list[Task]:
        """Apply the `task:NAME` tables of doit's configuration, as doit does."""
        for task in tasks:
            if (stanza := f"task:{task.name}") in (self._inner.config or ()):
                task.cfg_values = self._inner.config[stanza]
        return tasks

    def _named(self, tasks: list[Task], words: list[str]) -> list[Task]:
        """Replace the words of the command line with task names.

        Raises:
            UnknownNameError: a word matches nothing.
        """
        self._tasks = {task.name: task for task in tasks}
        words[:] = self._resolve(words)
        return tasks

    def _named_to_run(self, tasks: list[Task], words: list[str]) -> list[Task]:
        """Replace words with task names for a command that runs tasks.

        Words after the name of a task with parameters may be its arguments, and a word may name a task that is created
        during the run: those words stay. Words after a glob or a path are never arguments of a task.

        Raises:
            UnknownNameError: a word matches nothing.
        """
        self._tasks = {task.name: task for task in tasks}
        taking = {task.name for task in tasks if task.params or task.creator_params or task.pos_arg}
        own = next((at for at, word in enumerate(words) if word in taking), len(words))
        if any(task.loader for task in tasks):
            meant = [name for word in words[:own] for name in self._perhaps(word)]
        else:
            meant = self._resolve(words[:own])
        for name in taking.intersection(meant):
            # otherwise doit passes the following names to this task instead of running them
            self._tasks[name].pos_arg_val = self._tasks[name].pos_arg_val or []
        words[:own] = meant
        return tasks

    def _perhaps(self, word: str) -> list[str]:
        """Return the names that a word matches, or the word itself when its task may not exist yet."""
        try:
            return self._resolve([word])
        except UnknownNameError:
            if "*" in word:  # doit expands globs over existing tasks only
                raise
            return [word]

    def _resolve(self, words: list[str]) -> list[str]:
        """Return the names of the tasks that the words mean.

        Raises:
            UnknownNameError: a word matches nothing.
        """
        try:
            return resolve_names(words, self._tasks, self._commands)
        except UnknownNameError as error:
            found = current_session()
            refused = [_step_not_made(found, word) for word in words if word not in self._tasks] if found else []
            raise next(filter(None, refused), error) from None

    def unknown(self, word: str) -> UnknownNameError:
        """Return the error for a word that doit did not find, possibly after the name of a task with parameters."""
        try:
            (name, *_) = self._resolve([word])
        except UnknownNameError as error:
            return error
        return UnknownNameError(f"unknown task {escape_text(word)!r}", hint=f"did you mean {escape_text(name)}?")

    def selection(self, tasks: Iterable[Task], selected: list[str] | None) -> list[str]:
        """Return the names of the selected tasks: by words, else the defaults, else all groups."""
        by_name = {task.name: task for task in tasks}
        if selected is None:
            return [task.name for task in by_name.values() if not task.subtask_of]
        return resolve_names(selected, by_name)

    def users(self, task: str) -> set[str]:
        """Return the tasks that use the artifact of a task, including tasks that are not loaded."""
        found = current_session()
        if found is None or not isinstance(self._inner, NamespaceTaskLoader):
            return set()
        kind, name = owner_of(task)
        if name not in found.definitions.kinds.get(kind, ()):  # a user's task with the name of one of ours
            return set()
        if kind == "fetch" and found.plan.published(found.definitions.fetches[name]).task != task:
            return set()
        users = found.definition_cache.consumers.get(f"{kind}:{name}", ()) if "/" not in task else ()
        own = [(other, one) for other, one in map(owner_of, users) if one in found.definitions.kinds[other]]
        built = [one for other, one in own if other == "toolchain"]  # those that are missing are skipped
        extractions = {name for user in built for name in self._extractions(found, user).get(task, ())}
        return extractions | {f"{other}:{one}" for other, one in own}

    def _extractions(self, found: Session, toolchain: str) -> dict[str, list[str]]:
        """Return the extractions of a toolchain by the task that makes their artifact; computed once."""
        known = self._extracted.get(toolchain)
        if known is None:
            known = self._extracted[toolchain] = {}
            for one in found.plan.preparation(toolchain).deliveries:
                if one.entry.delivery == "extract":
                    known.setdefault(one.artifact.task, []).append(f"extract:{toolchain}/{one.record.stem}")
        return known

    def _chosen(self, found: Session, cmd: Any, pos_args: list[str]) -> list[Task]:
        scope = getattr(cmd, "scope", "all")
        is_part = found.settings.shard or getattr(cmd, "params", {}).get("on")
        if is_part and not pos_args and isinstance(cmd, DoitRun | DoitList):
            return self._fetches_only(found, cmd)
        if scope == "stamp" and not pos_args:
            return self._bare(found, cmd)
        if pos_args:
            return self._selected(found, pos_args)
        if scope == "groups":
            refused = found.definitions.refused  # refused definitions are reported even where no task is listed
            return [*slim_task.empty_groups().values(), *(_alone(found) if refused else ())]
        return _made(found, None)

    def _selected(self, found: Session, words: list[str]) -> list[Task]:
        """Return the tasks that the words mean, and their dependencies; all tasks if other ones may be meant.

        Raises:
            UnknownNameError: a word matches nothing.
        """
        definitions = found.definitions
        names = owners(definitions, found.settings, found.definition_cache, words)
        if names is not None:
            names = closure(definitions, *names)
            has_globs = any(map(is_glob, words))
            tasks = _made(found, in_order(definitions, names)) + _alone(found) if has_globs else _made(found, names)
            try:
                return self._named(tasks, words)
            except UnknownNameError:
                if all(map(is_task_glob, words)):  # its error suggests no name, so that no other task is needed
                    raise
        return self._named(_made(found, None), words)

    def _fetches_only(self, found: Session, cmd: Any) -> list[Task]:
        """Return the tasks of the fetches of the shard, of all without one; select what fetches and repacks them."""
        from tasks_lib.incremental import fetch_selection  # loads definitions, which a no-op run does not need

        own = found.settings
        fetches = fetch_selection.fetches_of_run(found.definitions, own.platform)
        if own.shard:
            shard, wanted = own.shard, len(fetches)
            fetches, size = fetch_selection.fetches_of_shard(
                found.definitions, found.definition_cache, shard, own.shard_by, fetches
            )
            sys.stderr.write(
                f"shard {shard.number:,} of {shard.total:,}: {len(fetches):,} of {counted(wanted, 'definition')},"
                f" {format_size(size)}\n"
            )
        tasks = _made(found, (fetches, {}, {}))
        cmd.sel_tasks = [task.name for task in tasks if task.name.startswith(("fetch:", "repack:"))]
        return tasks

    def _bare(self, found: Session, cmd: Any) -> list[Task]:
        """Return the tasks that a bare run has to check."""
        database = cmd.dep_manager.name
        self.run_plan = plan = plan_run(
            found,
            path=snapshot_path(database),
            database=database,
            selection=cmd.sel_tasks,
            open_database=cmd.dep_manager.backend.begin,
        )
        if plan.is_noop:
            cmd.sel_tasks = []
            return []
        tasks = _made(found, plan.definitions)
        if plan.definitions is not None and cmd.sel_tasks is not None:
            there = {task.name for task in tasks}
            cmd.sel_tasks = [name for name in cmd.sel_tasks if name in there or "*" in name]
        return tasks


def _step_not_made(found: Session, word: str) -> UnknownNameError | None:
    """Return the error for `extract:NAME` or `repack:NAME` of a definition that has no such step."""
    step, _, name = word.partition(":")
    if step == "extract" and name in found.definitions.toolchains:
        hint = f"`doit 'extract:{name}/*'` extracts its fetches, `doit toolchain:{name}` makes it"
        return UnknownNameError(f"{name} is a toolchain, not an archive", hint=hint)
    if step not in ("extract", "repack") or name not in found.definitions.fetches:
        return None
    artifact = found.plan.published(found.definitions.fetches[name])
    path = escape_text(str(artifact.path))
    if step == "repack":
        hint = f"`doit fetch:{name}` makes {path}; an `artifact-name` that ends in .tar.zst requests a repack"
        return UnknownNameError(f"{name} is not repacked", hint=hint)
    known = artifact.not_extracted
    reason = f"{name} is {known}, which is not extracted" if known else f"{name} is not an archive"
    reason += f" (by its file name, {escape_text(artifact.path.name)})"
    return UnknownNameError(reason, hint=f"`doit fetch:{name}` makes {path}")


def _only_ours(namespace: Mapping[str, Any] | None) -> bool:
    """Whether a dodo.py defines only our tasks. Source: doit.loader._get_task_creators."""
    if namespace is None:
        return False
    creators = [
        value
        for name, value in namespace.items()
        if (name.startswith(TASK_STRING) and inspect.isroutine(value)) or hasattr(value, "create_doit_tasks")
    ]
    return creators == [task_fetchdefs]


def _has_ours(namespace: Mapping[str, Any] | None) -> bool:
    return any(value is task_fetchdefs for value in (namespace or {}).values())


def _made(found: Session, names: Names | None) -> list[Task]:
    """Return the tasks of the named definitions (None for all), groups first."""
    return list(slim_task.slim_tasks(found.graph.tasks(*(names or (None, None, None)))))


def _alone(found: Session) -> list[Task]:
    """Return the tasks outside of the groups."""
    return [task for task in slim_task.slim_tasks(found.graph.refused()) if task.name not in GROUPS]
