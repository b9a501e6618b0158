"""Merging of an extracted tree into a shared directory, entry by entry, through descriptors that follow no symlinks.

A path that exists only in the tree is moved by one rename. Two directories are merged. Any other existing entry is
replaced, even a directory by a file. A symlink in the place of a directory is replaced, never followed.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from tasks_lib.errors import TreeError, escape_text
from tasks_lib.fs.directories import OPEN_DIRECTORY


def merge_tree(
    tree: Path, destination: Path, aside: Path, replaced: Callable[[str], None] = lambda _path: None
) -> None:
    """Move everything in `tree` into `destination`, and replaced directories into `aside`.

    Args:
        tree: the directory to move; empty afterwards.
        destination: a directory on the same file system.
        aside: a directory on the same file system, which the caller removes.
        replaced: receives the path below `destination` of each entry that is replaced.

    Raises:
        TreeError: a file system operation failed.
    """
    try:
        target = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # the user's own may be a symlink
        _merge(os.open(tree, OPEN_DIRECTORY), target, aside, replaced)
    except OSError as error:
        name = escape_text(os.fsdecode(error.filename)) if error.filename is not None else ""
        raise TreeError(
            f"cannot move {name!r} into {destination}: {error.strerror or error}",
            hint="check permissions and existing entries",
        ) from error


def set_mtime(tree: Path, time_ns: int) -> None:
    """Set the mtime of everything in `tree` to one value.

    Otherwise files would be as old as their order in the archive: `configure.ac` could be newer than `configure`, and
    make would regenerate the latter with tools that are not installed.

    Raises:
        OSError: a file system operation failed.
    """
    for _, directories, files, descriptor in os.fwalk(tree):
        for name in (*directories, *files):
            os.utime(name, ns=(time_ns, time_ns), dir_fd=descriptor, follow_symlinks=False)


def _merge(source: int, target: int, aside: Path, replaced: Callable[[str], None]) -> None:
    """Merge one open directory into another and close both; the directories on the current path are open.

    Raises:
        OSError: a file system operation failed.
    """
    stack = [(source, target, iter(_names(source)), "")]
    try:
        while stack:
            here, there, names, above = stack[-1]
            for name in names:
                if _both_directories(name, here, there):
                    below = os.open(name, OPEN_DIRECTORY, dir_fd=here)
                    stack.append(
                        (below, os.open(name, OPEN_DIRECTORY, dir_fd=there), iter(_names(below)), f"{above}{name}/")
                    )
                    break
                if _remove_obstacle(name, here, there, aside):
                    replaced(above + name)
                os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
            else:
                _close(*stack.pop()[:2])
    finally:
        for here, there, *_ in stack:
            _close(here, there)


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _both_directories(name: str, here: int, there: int) -> bool:
    return stat.S_ISDIR(_mode(name, here)) and stat.S_ISDIR(_mode(name, there))


def _remove_obstacle(name: str, here: int, there: int, aside: Path) -> bool:
    """Remove an entry that a rename cannot replace: a directory, or anything else if a directory replaces it.

    Return whether there is an entry with this name.
    """
    existing = _mode(name, there)
    if stat.S_ISDIR(existing):
        os.rename(name, aside / secrets.token_hex(8), src_dir_fd=there)
    elif existing and stat.S_ISDIR(_mode(name, here)):
        os.unlink(name, dir_fd=there)
    return bool(existing)


def _mode(name: str, directory: int) -> int:
    """Return the mode of an entry, 0 if it does not exist."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0
