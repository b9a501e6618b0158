"""What a run saw of each task's files, for the stamp: what was looked at before the check that it stands for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from tasks_lib.fs.fingerprint import RACY_NS
from tasks_lib.incremental.marks import look_at
from tasks_lib.incremental.snapshot import SnapshotRow


class Recorder:
    """Collects rows during a run: of each task that doit finds up to date, and of each that was made."""

    def __init__(self, loaded_ns: int) -> None:
        self._loaded_ns = loaded_ns
        self.rows: dict[str, SnapshotRow] = {}
        self._made: list[Any] = []
        self._last_ns = 0

    def look(self, task: Any) -> SnapshotRow | None:
        """Look at the files of a task before it is checked; None for a task that is not ours to judge."""
        sources = tuple(path for check, *_ in task.uptodate for path in getattr(check, "sources", ()))
        paths = tuple(path for path in dict.fromkeys(_paths_of(task)) if path not in sources)
        if not paths:
            return None
        links = tuple(path for path in map(os.path.realpath, sources) if path not in sources)
        signs = look_at(paths) + look_at(sources + links, self._loaded_ns)
        return SnapshotRow(tuple(task.task_dep), paths + sources + links, signs)

    def found(self, task: Any, row: SnapshotRow | None) -> None:
        """Keep what was seen before the check that found the task up to date."""
        if row is not None:
            self.rows[task.name] = row

    def made(self, task: Any) -> None:
        """Note that a task was made; its files are too young to be believed yet."""
        self._made.append(task)
        self._last_ns = time.monotonic_ns()

    def settle(self) -> None:
        """Look at the tasks that were made, and check each once more."""
        if self._made:
            time.sleep(max(0, self._last_ns + 2 * RACY_NS - time.monotonic_ns()) / 1e9)
        for task in self._made:
            row = self.look(task)
            if row is not None and all(check.holds() for check, *_ in task.uptodate):
                self.rows[task.name] = row
                if (release := getattr(task, "release_checks", None)) is not None:  # one of ours
                    release()
        self._made.clear()


def _paths_of(task: Any) -> Iterator[str]:
    """Yield the files on which a task's state depends; nothing for a task with checks that are not ours."""
    checks = [item[0] for item in task.uptodate]
    if not checks or not all(hasattr(check, "witnesses") for check in checks):
        return
    for check in checks:
        yield from check.witnesses()
    yield from task.targets
    yield from task.file_dep
