"""Plan a bare run from the snapshot of the last one (`plan_run`), and write the next snapshot (`finish_run`).

The snapshot answers for every task whose files, definition, settings and code are unchanged. doit checks the others and
reports to the plan, which writes the next snapshot.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from tasks_lib.fs.fingerprint import RACY_NS
from tasks_lib.fs.system_calls import boot_identity
from tasks_lib.host import platform_name
from tasks_lib.incremental import snapshot as snapshots
from tasks_lib.incremental.fingerprints import are_unchanged, read_settled_fingerprints
from tasks_lib.incremental.selection import PLACES, Names, affected, closure, digests, no_names, owner_of
from tasks_lib.incremental.snapshot import Snapshot, SnapshotHead, SnapshotRow

if TYPE_CHECKING:
    from tasks_lib.context import Context
    from tasks_lib.definitions import Definitions
    from tasks_lib.incremental.definition_cache import DefinitionCache
    from tasks_lib.settings import Settings

#: Share of all definitions above which everything is loaded: choosing saves nothing then.
_MOST: Final = 0.5
#: Nanoseconds after which the files of a task are no longer racy: a file changes before its task is noted.
_SETTLED_NS: Final = RACY_NS + 1_000_000


class Inputs(Protocol):
    """What a plan needs of a session; each part is created when it is first asked for."""

    @property
    def settings(self) -> Settings:
        """The settings of the run."""

    @property
    def code(self) -> str:
        """The digest of this package's own files."""

    @property
    def roots(self) -> Sequence[Path]:
        """The directories and files in which definitions are looked for."""

    @property
    def definitions(self) -> Definitions:
        """All definitions."""

    @property
    def definition_cache(self) -> DefinitionCache:
        """The cache of parsed definitions."""

    @property
    def context(self) -> Context:
        """The context of the steps."""

    def enter(self) -> None:
        """Create the cache directory, and wait while it is pruned."""


class Observations:
    """The state of each task's files before its check; used by one thread at a time."""

    def __init__(self, loaded_ns: int) -> None:
        """Begin; the sources of the definitions were read at `loaded_ns`, nanoseconds since 1970."""
        self._loaded_ns = loaded_ns
        self._rows: dict[str, SnapshotRow] = {}
        self._made: list[Any] = []
        self._last_ns = 0

    def look(self, task: Any) -> SnapshotRow | None:
        """Return the state of a task's files before it is checked; None for a task with other inputs."""
        sources = tuple(path for check, *_ in task.uptodate for path in getattr(check, "sources", ()))
        paths = tuple(path for path in dict.fromkeys(_paths_of(task)) if path not in sources)
        if not paths or any(getattr(check, "variables", ()) for check, *_ in task.uptodate):
            return None  # the snapshot knows files and settings only
        links = tuple(path for path in map(os.path.realpath, sources) if path not in sources)
        fingerprints = read_settled_fingerprints(paths) + read_settled_fingerprints(sources + links, self._loaded_ns)
        notes = filter(None, (check.note() for check, *_ in task.uptodate))
        return SnapshotRow(tuple(task.task_dep), paths + sources + links, fingerprints, "; ".join(notes))

    def note_up_to_date(self, task: Any, row: SnapshotRow | None) -> None:
        """Keep what `look` returned before the check that found the task up to date."""
        if row is not None:
            self._rows[task.name] = row

    def note_made(self, task: Any) -> None:
        """Note that a task ran; its files are too new for a trusted fingerprint."""
        self._made.append(task)
        self._last_ns = time.monotonic_ns()

    def settle(self) -> None:
        """Record the files of the tasks that ran, after checking each task once more."""
        if self._made:
            time.sleep(max(0, self._last_ns + _SETTLED_NS - time.monotonic_ns()) / 1e9)
        for task in self._made:
            row = self.look(task)
            if row is not None and all(check.holds() for check, *_ in task.uptodate):
                self._rows[task.name] = row
                if (release := getattr(task, "release_checks", None)) is not None:  # one of ours
                    release()
        self._made.clear()


class RunPlan(Observations):
    """The plan of one run, and what the run observes; created by `plan_run`.

    Attributes:
        is_noop: whether nothing changed, so that no task is loaded.
        up_to_date: names of the tasks that are known to be up to date and are not loaded.
        notes: what is not confirmed about the output of some of them.
        definitions: names of the definitions to load; None for all.
    """

    def __init__(self, inputs: Inputs, path: Path, head: SnapshotHead, before: Snapshot | None, loaded_ns: int) -> None:
        super().__init__(loaded_ns)
        self.is_noop = False
        self.up_to_date: list[str] = []
        self.notes: dict[str, str] = {}
        self.definitions: Names | None = None
        self._inputs, self._path, self._head, self._before = inputs, path, head, before

    def _narrow(self, names: Names, definitions: Definitions, before: Snapshot) -> None:
        """Load only the named definitions with their dependencies; the tasks of all others are up to date."""
        wanted = closure(definitions, *names)
        if sum(map(len, wanted)) > _MOST * sum(map(len, definitions.kinds.values())):
            return
        for name, row in before.rows().items():
            kind, owner = owner_of(name)
            if kind and owner in definitions.kinds[kind] and owner not in wanted[PLACES[kind]]:
                self._rows[name] = row
        self.up_to_date, self.definitions = list(self._rows), wanted
        self.notes = {name: row.note for name, row in self._rows.items() if row.note}

    def _write(self, database: str, requested: Iterable[str]) -> None:
        head = SnapshotHead(self._head.code, self._head.settings, self._head.selection, snapshots.inode_of(database))
        snapshots.write(
            self._path,
            head,
            self._inputs.definition_cache,
            digests(self._inputs.definitions),
            self._rows,
            [*self._rows, *requested],
            self._before,
        )


def plan_run(
    inputs: Inputs, *, path: Path, database: str, selection: object, open_database: Callable[[], None]
) -> RunPlan:
    """Return the plan of a run without names.

    Args:
        inputs: the session.
        path: of the snapshot.
        database: path of doit's database; with another one everything is forgotten.
        selection: the tasks that are selected by default.
        open_database: called before definitions are chosen, so that tasks forgotten meanwhile are noticed.

    Raises:
        DefinitionError: the definitions are wrong.
        CacheUnavailableError, SettingError: as `Inputs.enter`.
    """
    loaded_ns = time.time_ns()
    head = SnapshotHead(
        inputs.code, _digest(inputs.settings, Path.cwd()), repr(selection), snapshots.inode_of(database)
    )
    before = snapshots.read(path, head, inputs.settings.trust)
    plan = RunPlan(inputs, path, head, before, loaded_ns)
    if before is None:
        inputs.enter()
        return plan
    same, changed = are_unchanged(before.source_fingerprints, inputs.roots), before.changed()
    if same and not (changed or before.open):
        plan.is_noop, plan.up_to_date, plan.definitions = True, before.names, no_names()
        plan.notes = before.notes
        return plan
    definitions = inputs.definitions
    open_database()
    if path.exists():  # else something was forgotten since it was read
        plan._narrow(affected(before, changed, definitions, inputs.definition_cache.identity), definitions, before)
    return plan


def finish_run(plan: RunPlan, database: str, requested: Iterable[str]) -> None:
    """Write the snapshot for the next run, once doit's database is saved; one that holds already stays.

    Args:
        plan: of this run, settled.
        database: path of doit's database.
        requested: names of all tasks that were asked for.
    """
    if not plan.is_noop:
        plan._write(database, requested)


def _paths_of(task: Any) -> Iterator[str]:
    """Yield the files on which a task's state depends; nothing for a task with checks that are not ours."""
    checks = [item[0] for item in task.uptodate]
    if not checks or not all(hasattr(check, "inputs") for check in checks):
        return
    for check in checks:
        yield from check.inputs()
    yield from task.targets
    yield from task.file_dep


def _digest(*values: object) -> str:
    # trees are not synced: after a power loss a file may be shorter with the inode and the times that a snapshot knows
    text = repr((*values, boot_identity(), platform_name(), sys.version_info, os.geteuid()))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
