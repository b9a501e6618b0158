"""What stands in a directory that several deliveries share: found, judged and removed by what their records say.

Everything goes through descriptors that follow nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from tasks_lib.fingerprint import predates
from tasks_lib.tree.descent import Descent
from tasks_lib.tree.record import Line

_KINDS: Final = {
    "file": stat.S_IFREG, "hardlink": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK,
}  # fmt: skip


def all_stand(root: Path, made: Iterable[Line], written_ns: int) -> bool:
    """Whether every entry stands below `root`: by kind, size and time, without reading content.

    What was written later than `written_ns`, when the record was complete, was written by someone else.

    Raises:
        OSError: `root` cannot be opened.
        ValueError, TypeError: the record is not whole.
    """
    with Descent(root) as descent:
        return all(_stands(descent, line, written_ns) for line in made)


def new_paths(root: Path, made: Iterable[Line], own: frozenset[str], clash: Callable[[str], Exception]) -> list[str]:
    """Return the topmost paths that nobody has put below `root` yet.

    Args:
        root: the directory.
        made: what comes, parents first.
        own: paths that are about to go.
        clash: gives the error for a path at which something else stands.

    Raises:
        OSError: `root` cannot be opened.
        what `clash` gives.
    """
    new: list[str] = []
    shared = {""}  # directories that both have
    with Descent(root) as descent:
        for one in made:
            if one.path.rpartition("/")[0] not in shared:
                continue  # comes with a directory that is new
            status = _found(descent, one.path)
            if status is not None and stat.S_ISDIR(status.st_mode) and one.kind == "directory":
                shared.add(one.path)
            elif status is None or one.path in own:
                new.append(one.path)
            else:
                raise clash(one.path)
    return new


def remove_entries(root: Path, made: Iterable[Line]) -> None:
    """Remove entries below `root`, directories only when nothing else is in them.

    Raises:
        OSError: `root` cannot be opened, or is read-only.
        ValueError, TypeError: the record is not whole; directories stay then.
    """
    directories = []
    with Descent(root) as descent:
        for line in made:
            if line.kind == "directory":
                directories.append(line.path)
            else:
                _drop(descent, line.path, os.unlink)
        for path in reversed(directories):
            _drop(descent, path, os.rmdir)


def _found(descent: Descent, path: str) -> os.stat_result | None:
    directory, _, name = os.fsencode(path).rpartition(b"/")
    try:
        return os.stat(name, dir_fd=descent.enter(directory), follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stands(descent: Descent, line: Line, written_ns: int) -> bool:
    status = _found(descent, line.path)
    if status is None or stat.S_IFMT(status.st_mode) != _KINDS.get(line.kind):
        return False
    if line.kind == "directory":
        return True  # what others put into it is theirs
    return predates(status, written_ns) and (line.kind != "file" or status.st_size == line.size)


def _drop(descent: Descent, path: str, verb: Callable[..., None]) -> None:
    """Remove one recorded entry; something of others in it, or in its place, stays."""
    directory, _, name = os.fsencode(path).rpartition(b"/")
    try:
        verb(name, dir_fd=descent.enter(directory))
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EIO):
            raise
