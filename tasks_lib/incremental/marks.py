"""What says that a file is as it was, without reading it: what definitions and this package's code are known by.

Light to import: a bare `doit` in which nothing changed needs little more than this.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tasks_lib.fs.fingerprint import Fingerprint, compact_of, copy_stable, is_racy

#: Where definitions stand in their directory.
KINDS: Final = ("fetch", "toolchain")
MIRRORS: Final = "mirrors.yml"

_DIRECTORY: Final = 0o040000
_FORMAT: Final = 0o170000
#: The sign of a file that changed so lately that it could change again without being noticed: it never fits.
RACY: Final = (1 << 64) - 1


def signs_of(paths: Iterable[str]) -> list[int]:
    """Return what identifies the content of each file: 0 when it is missing, a directory by its identity only."""
    signs: list[int] = []
    add, look = signs.append, os.lstat
    for path in paths:
        try:
            status = look(path)
        except OSError:
            add(0)
            continue
        add(status.st_ino if status.st_mode & _FORMAT == _DIRECTORY else compact_of(status))
    return signs


def look_at(paths: Iterable[str], before: int = 0) -> tuple[int, ...]:
    """Return the signs to be remembered: a file that changed just now gets one that never fits again.

    Args:
        paths: the files.
        before: nanoseconds of the clock at which they were read, if they were.
    """
    looked_ns = before or time.time_ns()
    signs = []
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            signs.append(0)
            continue
        if status.st_mode & _FORMAT == _DIRECTORY:
            signs.append(status.st_ino)
        else:
            signs.append(RACY if is_racy(status, looked_ns) else compact_of(status))
    return tuple(signs)


def entries_of(directory: str) -> int:
    """Return what says that no name in a directory came, went or was given to another file; RACY when that is unknown.

    Source: POSIX, rename() and unlink(): they mark the last status change of the directory.
    """
    try:
        status = os.stat(directory)  # noqa: PTH116  # a text, as paths are kept
    except OSError:
        return RACY
    return RACY if is_racy(status, time.time_ns()) else compact_of(status)


def roots(directory: Path) -> list[Path]:
    """Return where definitions are looked for: what is new there is noticed."""
    return [*(directory / kind for kind in KINDS), directory / MIRRORS]


def rights_of(path: Path | str) -> tuple[int, ...]:
    """Return what says who may change a directory, (0,) when it is missing."""
    try:
        status = os.lstat(path)
    except OSError:
        return (0,)
    return (status.st_ino, status.st_mode, status.st_uid, status.st_gid)


def code_mark() -> str:
    """Return a digest of this package's own files: other code may read the same text differently."""
    digest = hashlib.sha256()
    top = Path(__file__).parent.parent
    for directory in sorted([str(top), *(entry.path for entry in os.scandir(top) if entry.is_dir())]):
        for entry in sorted(os.scandir(directory), key=lambda one: one.name):
            if entry.name.endswith(".py"):
                size, mtime_ns = copy_stable(entry.stat())
                digest.update(f"{entry.path} {size} {mtime_ns}\n".encode())
    return digest.hexdigest()


def unchanged(marks: Mapping[str, Fingerprint], roots: Iterable[Path]) -> bool:
    """Whether nothing of what definitions were read from has changed; `roots` are the places that are looked into."""
    if any(str(root) not in marks for root in roots):
        return False
    return all(mark.is_at(path) for path, mark in marks.items())
