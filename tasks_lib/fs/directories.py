"""Directories by descriptor, never through symlinks: a chain of open directories, removal of a tree."""

from __future__ import annotations

import contextlib
import os
from itertools import count
from pathlib import Path
from typing import Final, Self

from tasks_lib.fs.system_calls import make_accessible

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryChain:
    """Open descriptors of the directory entered last and of its parents; efficient for entries in tree order.

    Raises:
        OSError: `root` is not a directory or cannot be opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.open(root, OPEN_DIRECTORY)
        self._open: list[tuple[bytes, int]] = []
        self.here: tuple[bytes, int] = (b"", self.root)  # the directory entered last

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave(0)
        os.close(self.root)

    def _leave(self, kept: int) -> None:
        self.here = (b"", self.root)
        while len(self._open) > kept:
            os.close(self._open.pop()[1])

    def enter(self, path: bytes) -> int:
        """Return the descriptor of a directory below the root; it is valid until the next call.

        Raises:
            OSError: it does not exist, or a component is not a directory.
        """
        if self.here[0] == path:
            return self.here[1]
        parts = path.split(b"/") if path else []
        shared = 0
        while shared < min(len(parts), len(self._open)) and self._open[shared][0] == parts[shared]:
            shared += 1
        self._leave(shared)
        descriptor = self._open[-1][1] if self._open else self.root
        for part in parts[shared:]:
            descriptor = os.open(part, OPEN_DIRECTORY, dir_fd=descriptor)
            self._open.append((part, descriptor))
        self.here = (path, descriptor)
        return descriptor


def remove_tree(path: Path) -> None:
    """Remove a directory tree of any depth, including directories of mode 000, without following symlinks.

    Subdirectories are moved up to the root and emptied there, so two open descriptors are enough for any depth and no
    recursion is needed.

    Raises:
        OSError: a file system operation failed.
    """
    with contextlib.suppress(FileNotFoundError):
        make_accessible(path)
        root = os.open(path, OPEN_DIRECTORY)
        try:
            _empty(root)
        finally:
            os.close(root)
        path.rmdir()


def _empty(root: int) -> None:
    numbers = count()
    waiting = _clear_files(root)
    while waiting:
        name = waiting.pop()
        make_accessible(name, root)
        directory = os.open(name, OPEN_DIRECTORY, dir_fd=root)
        try:
            for inner in _clear_files(directory):
                make_accessible(inner, directory)  # moving a directory writes its `..`
                while True:
                    moved = f".removed.{next(numbers)}"
                    try:
                        os.mkdir(moved, 0o700, dir_fd=root)  # a rename onto an empty directory replaces it
                        break
                    except FileExistsError:
                        continue
                os.rename(inner, moved, src_dir_fd=directory, dst_dir_fd=root)
                waiting.append(moved)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=root)


def _clear_files(directory: int) -> list[str]:
    """Remove everything but directories; return their names."""
    with os.scandir(directory) as listing:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing]
    for name, is_directory in entries:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
    return [name for name, is_directory in entries if is_directory]
