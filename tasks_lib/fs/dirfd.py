"""Directory descriptors below one root, opened component by component without following symlinks.

The kernel never resolves a path of several components. A path may therefore be longer than PATH_MAX, and a component
that another process replaces with a symlink is not followed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Self

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
