"""Cheap evidence that files are unchanged: compact fingerprints of many paths, of directories and of our own code.

The module is fast to import: a no-op `doit` needs little more.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tasks_lib.fs.fingerprint import Fingerprint, compact_fingerprint, copy_stable, is_racy
from tasks_lib.layout import find_layout

_DIRECTORY: Final = 0o040000
_FORMAT: Final = 0o170000
#: The fingerprint of a file that changed too recently to trust; it never matches. See `fingerprint.is_racy`.
RACY: Final = (1 << 64) - 1


def read_fingerprints(paths: Iterable[str]) -> list[int]:
    """Return a fingerprint of the content of each file: 0 when it is missing; for a directory, its inode.

    A directory whose path ends with a slash has a fingerprint of its names. Source: as `read_directory_fingerprint`.
    """
    fingerprints: list[int] = []
    add, look = fingerprints.append, os.lstat
    for path in paths:
        try:
            status = look(path)
        except OSError:
            add(0)
            continue
        is_inode = status.st_mode & _FORMAT == _DIRECTORY and path[-1] != "/"
        add(status.st_ino if is_inode else compact_fingerprint(status))
    return fingerprints


def read_settled_fingerprints(paths: Iterable[str], before: int = 0) -> tuple[int, ...]:
    """Return the fingerprints to store; a file that changed just now gets a fingerprint that never matches.

    Args:
        paths: the files.
        before: the time at which the files were read, in nanoseconds since 1970; 0 for now.
    """
    looked_ns = before or time.time_ns()
    fingerprints = []
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            fingerprints.append(0)
            continue
        if status.st_mode & _FORMAT == _DIRECTORY and path[-1] != "/":
            fingerprints.append(status.st_ino)
        else:
            fingerprints.append(RACY if is_racy(status, looked_ns) else compact_fingerprint(status))
    return tuple(fingerprints)


def read_directory_fingerprint(directory: str) -> int:
    """Return a fingerprint of the names in a directory, RACY when it cannot be trusted.

    Source: POSIX, rename() and unlink() update the last status change of the directory.
    """
    try:
        status = os.stat(directory)  # noqa: PTH116  # paths are kept as text
    except OSError:
        return RACY
    return RACY if is_racy(status, time.time_ns()) else compact_fingerprint(status)


def list_roots(given: Path) -> list[Path]:
    """Return the places that may hold definitions; additions there are noticed."""
    layout = find_layout(given)
    return [*layout.places, *layout.mirrors]


def compute_code_digest() -> str:
    """Return a digest of paths, sizes and times of this package: other code may parse the same text differently."""
    digest = hashlib.sha256()
    top = Path(__file__).parent.parent
    for directory, subdirectories, names in os.walk(top):
        subdirectories.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                path = f"{directory}/{name}"
                size, mtime_ns = copy_stable(os.stat(path))  # noqa: PTH116  # at every start
                digest.update(f"{path} {size} {mtime_ns}\n".encode())
    return digest.hexdigest()


def are_unchanged(source_fingerprints: Mapping[str, Fingerprint], roots: Iterable[Path]) -> bool:
    """Whether no source of the definitions has changed; `roots` are the places that may hold definitions."""
    if any(str(root) not in source_fingerprints for root in roots):
        return False
    return all(fingerprint.is_at(path) for path, fingerprint in source_fingerprints.items())
