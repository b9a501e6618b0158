"""How doit compares the files that a task depends on: as its own checker does, but a worker reads large ones, once.

doit's own reads every file of a finished task on the main thread, again for each task that depends on it; an archive of
a gigabyte stalls all workers for two seconds. And it takes a file of another size with the same time for unchanged.
The name and what is remembered are doit's, so that what was remembered stays valid.
Source: doit 0.37, `MD5Checker`, `Dependency.save_success`, `Dependency.get_status`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from typing import Any, Final

from doit import dependency

from tasks_lib.fs.fingerprint import Fingerprint, is_racy

#: Bytes of a file from which on a worker reads it, and what was read is kept; less is read faster than handed over.
LARGE: Final = 256 << 10

_DOIT: Any = dependency  # doit has no types
_FileState = tuple[float, int, str]


class MD5Checker(_DOIT.MD5Checker):  # type: ignore[misc]
    """Compares time, size and MD5; safe to use from any thread."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Fingerprint, str]] = {}

    def check_modified(self, file_path: str, file_stat: os.stat_result, state: _FileState) -> bool:
        """Return whether a file is not what it was when its task succeeded."""
        changed_s, size, digest = state
        if file_stat.st_size != size:
            return True
        return file_stat.st_mtime != changed_s and self._digest(file_path, file_stat) != digest

    def get_state(self, dep: str, current_state: _FileState | None) -> _FileState | None:
        """Return what is to be remembered of a file, None when that is remembered already."""
        status = os.stat(dep)  # noqa: PTH116  # ten thousands of them
        if current_state and (current_state[0], current_state[1]) == (status.st_mtime, status.st_size):
            return None
        return status.st_mtime, status.st_size, self._digest(dep, status)

    def prime(self, path: str) -> None:
        """Read a large file now, on this thread; who asks for its state later need not."""
        with contextlib.suppress(OSError):
            status = os.stat(path)  # noqa: PTH116
            if status.st_size >= LARGE:
                self._digest(path, status)

    def _digest(self, path: str, status: os.stat_result) -> str:
        fingerprint = Fingerprint.of(status)
        known = self._known.get(path)
        if known is not None and known[0] == fingerprint:
            return known[1]
        with open(path, "rb") as file:  # noqa: PTH123
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        # one that is too young could change without another time
        if status.st_size >= LARGE and not is_racy(status, time.time_ns()):
            self._known[path] = fingerprint, digest
        return digest
