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

#: Nanoseconds that a file must be older than the look at it: within a tick of the kernel's clock it could change twice.
#: Source: CONFIG_HZ is at least 100.
RACY_NS: Final = 20_000_000

#: Where definitions stand in their directory.
KINDS: Final = ("fetch", "toolchain")
MIRRORS: Final = "mirrors.yml"

Mark = tuple[int, ...]


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
        inode = status.st_ino
        add(inode if status.st_mode & _FORMAT == _DIRECTORY else status.st_ctime_ns ^ inode)
    return signs


def look_at(paths: Iterable[str], before: int = 0) -> tuple[int, ...]:
    """Return the signs to be remembered: a file that changed just now gets one that never fits again.

    Args:
        paths: the files.
        before: nanoseconds of the clock at which they were read, if they were.
    """
    young = (before or time.time_ns()) - RACY_NS
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
            signs.append(RACY if status.st_ctime_ns > young else status.st_ctime_ns ^ status.st_ino)
    return tuple(signs)


def entries_of(directory: str) -> int:
    """Return what says that no name in a directory came, went or was given to another file; RACY when that is unknown.

    Source: POSIX, rename() and unlink(): they mark the last status change of the directory.
    """
    try:
        status = os.stat(directory)  # noqa: PTH116  # a text, as paths are kept
    except OSError:
        return RACY
    if time.time_ns() - status.st_ctime_ns < RACY_NS:
        return RACY
    return status.st_ctime_ns ^ status.st_ino


def roots(directory: Path) -> list[Path]:
    """Return where definitions are looked for: what is new there is noticed."""
    return [*(directory / kind for kind in KINDS), directory / MIRRORS]


def mark_of(path: Path | str) -> Mark:
    """Return what identifies an unchanged file or directory, or its absence; () when it is too young to tell."""
    try:
        status = os.stat(path)  # noqa: PTH116  # thousands of them
    except OSError:
        return (0,)
    if time.time_ns() - status.st_ctime_ns < RACY_NS:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def rights_of(path: Path | str) -> Mark:
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
                status = entry.stat()
                digest.update(f"{entry.path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def unchanged(marks: Mapping[str, Mark], roots: Iterable[Path]) -> bool:
    """Whether nothing of what definitions were read from has changed; `roots` are the places that are looked into."""
    if any(str(root) not in marks for root in roots):
        return False
    return all(mark and mark_of(path) == mark for path, mark in marks.items())
