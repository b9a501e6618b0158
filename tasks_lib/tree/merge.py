"""A laid-out tree -> a directory that others share: moved, entry by entry, through descriptors that follow nothing.

What is new moves as a whole, by one rename. Two directories become one; anything else that both have is replaced by
what comes, a whole directory by a file too. A symlink that stands where a directory comes is never followed.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from tasks_lib.errors import TreeError, escaped
from tasks_lib.fs.dirfd import OPEN_DIRECTORY


def merge(tree: Path, destination: Path, aside: Path) -> None:
    """Move everything in `tree` into `destination`, and directories that are replaced into `aside`.

    Args:
        tree: what comes; empty afterwards.
        destination: a directory on the same file system.
        aside: a directory there too, which its owner removes.

    Raises:
        TreeError: the file system refused.
    """
    try:
        target = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # the user's own may be a symlink
        _merge(os.open(tree, OPEN_DIRECTORY), target, aside)
    except OSError as error:
        name = escaped(os.fsdecode(error.filename)) if error.filename is not None else ""
        raise TreeError(
            f"cannot place {name!r} in {destination}: {error.strerror or error}", hint="what stands there already?"
        ) from error


def settle(tree: Path, time_ns: int) -> None:
    """Give everything in `tree` one time of modification.

    Written in the order of its archive, `configure.ac` would be a little newer than `configure`, and make would want
    to make the latter again with tools that are not there.

    Raises:
        OSError: the file system refused.
    """
    for _, directories, files, descriptor in os.fwalk(tree):
        for name in (*directories, *files):
            os.utime(name, ns=(time_ns, time_ns), dir_fd=descriptor, follow_symlinks=False)


def _merge(source: int, target: int, aside: Path) -> None:
    """Merge one open directory into another and close both; open at a time are the directories on the way down.

    Raises:
        OSError: the file system refused.
    """
    way = [(source, target, iter(_names(source)))]
    try:
        while way:
            here, there, names = way[-1]
            for name in names:
                if _both_directories(name, here, there):
                    below = os.open(name, OPEN_DIRECTORY, dir_fd=here)
                    way.append((below, os.open(name, OPEN_DIRECTORY, dir_fd=there), iter(_names(below))))
                    break
                _make_room(name, here, there, aside)
                os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
            else:
                _close(*way.pop()[:2])
    finally:
        for here, there, _ in way:
            _close(here, there)


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as found:
        return sorted(one.name for one in found)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _both_directories(name: str, here: int, there: int) -> bool:
    return stat.S_ISDIR(_mode(name, here)) and stat.S_ISDIR(_mode(name, there))


def _make_room(name: str, here: int, there: int, aside: Path) -> None:
    """Take away what a rename would not replace: a directory, or anything else where a directory comes."""
    standing = _mode(name, there)
    if stat.S_ISDIR(standing):
        os.rename(name, aside / secrets.token_hex(8), src_dir_fd=there)
    elif standing and stat.S_ISDIR(_mode(name, here)):
        os.unlink(name, dir_fd=there)


def _mode(name: str, directory: int) -> int:
    """Return the mode of what stands there, 0 for nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0
