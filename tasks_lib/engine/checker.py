"""Checker of file dependencies, like doit's `MD5Checker`, except that a worker reads large files, and only once.

doit's own checker reads every file of a finished task on the main thread, and again for each task that depends on it;
an archive of a gigabyte stalls all workers for two seconds. It also treats a file with another size and the same time
as unchanged. The class name and the saved states are doit's, so existing states remain valid.
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

#: Size in bytes from which a worker reads a file and its digest is kept; smaller files are read faster than that.
LARGE_FILE_SIZE: Final = 256 << 10

_DOIT: Any = dependency  # doit has no types
_FileState = tuple[float, int, str]


class MD5Checker(_DOIT.MD5Checker):  # type: ignore[misc]
    """Compares time, size and MD5; thread-safe."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Fingerprint, str]] = {}

    def check_modified(self, file_path: str, file_stat: os.stat_result, state: _FileState) -> bool:
        """Return whether a file has changed since its task succeeded."""
        changed_s, size, digest = state
        if file_stat.st_size != size:
            return True
        return file_stat.st_mtime != changed_s and self._digest(file_path, file_stat) != digest

    def get_state(self, dep: str, current_state: _FileState | None) -> _FileState | None:
        """Return the state of a file to save, None if `current_state` is still valid."""
        status = os.stat(dep)  # noqa: PTH116  # fast: called for tens of thousands of files
        if current_state and (current_state[0], current_state[1]) == (status.st_mtime, status.st_size):
            return None
        return status.st_mtime, status.st_size, self._digest(dep, status)

    def prime(self, path: str) -> None:
        """Read a large file now, on this thread, so that `get_state` need not read it later."""
        with contextlib.suppress(OSError):
            status = os.stat(path)  # noqa: PTH116
            if status.st_size >= LARGE_FILE_SIZE:
                self._digest(path, status)

    def _digest(self, path: str, status: os.stat_result) -> str:
        fingerprint = Fingerprint.of(status)
        known = self._known.get(path)
        if known is not None and known[0] == fingerprint:
            return known[1]
        with open(path, "rb") as file:  # noqa: PTH123
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        # a file changed a moment ago could change again without a new mtime
        if status.st_size >= LARGE_FILE_SIZE and not is_racy(status, time.time_ns()):
            self._known[path] = fingerprint, digest
        return digest
