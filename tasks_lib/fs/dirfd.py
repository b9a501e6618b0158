"""The way down: directories below one root, opened component by component, following nothing.

No path is ever resolved by the kernel, however long it is and whatever stands in the way meanwhile.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Self

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryChain:
    """Descriptors of the directories on the way to the last one that was asked for; entries come in such an order.

    Raises:
        OSError: `root` is no directory that can be opened.
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
        """Return the descriptor of a directory below the root; valid until another one is entered.

        Raises:
            OSError: it is not there, or something on the way is no directory.
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
