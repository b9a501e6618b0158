"""Byte-by-byte comparison of a tree with the archive that it was extracted from.

The manifest of a tree has no digests (docs/decisions/0003). The archive is read again and each entry is compared with
the file on disk, so a change that preserves the size is found too. Symlinks are not followed and nothing is written.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final, Self

from tasks_lib.archive import Entry
from tasks_lib.fs.directories import DirectoryChain
from tasks_lib.progress import Progress

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS: Final = {
    "file": stat.S_IFREG, "hardlink": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK,
}  # fmt: skip
_CHUNK: Final = 1 << 20


class Comparison:
    """A sink for `archive.read`; `differences` maps a path to the reason why it differs.

    It can be used once, as a context manager that closes its file descriptors.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self._progress = progress
        self.differences: dict[str, str] = {}
        self._missing = ""  # why the tree cannot be opened
        self._stack = contextlib.ExitStack()
        try:
            self._chain = self._stack.enter_context(DirectoryChain(root))
        except OSError as error:
            self._missing = error.strerror or "cannot be read"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, entry: Entry) -> None:
        """Compare one entry.

        Raises:
            ArchiveError: the archive is damaged.
            CancelledError: the run was asked to stop.
        """
        self._progress.check()
        try:
            reason = self._missing or self._reason(entry)
        except OSError as error:
            reason = error.strerror or "cannot be read"
        for _ in entry.chunks:  # the reader continues after the content
            pass
        if reason:
            self.differences[os.fsdecode(entry.path)] = reason

    def repeats(self, entry: Entry) -> bool:
        """Compare an entry that repeats an earlier one; return True, because the tree decides.

        Raises:
            ArchiveError, CancelledError: see `add`.
        """
        self.add(entry)
        return True

    def _reason(self, entry: Entry) -> str:
        directory, name = self._place(entry.path)
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_IFMT(status.st_mode) != _KINDS[entry.kind]:
            return f"is not a {entry.kind}"
        if entry.kind == "symlink":
            return "" if os.readlink(name, dir_fd=directory) == entry.target else "has a different target"
        if entry.kind == "hardlink":
            return "" if self._same_files(entry) else "differs from the target of its hard link"
        if entry.kind == "directory":
            return ""
        if bool(status.st_mode & 0o100) != bool(entry.executable):
            return "its executable bit changed"
        return self._content(entry)

    def _place(self, path: bytes) -> tuple[int, bytes]:
        directory, _, name = path.rpartition(b"/")
        return self._chain.enter(directory), name

    def _open(self, path: bytes) -> int:
        directory, name = self._place(path)
        return os.open(name, _OPEN, dir_fd=directory)

    def _content(self, entry: Entry) -> str:
        descriptor = self._open(entry.path)
        try:
            for chunk in entry.chunks:
                self._progress.advance(len(chunk))
                self._progress.check()
                if _read(descriptor, len(chunk)) != chunk:
                    return "its content changed"
            return "it is longer" if os.read(descriptor, 1) else ""
        finally:
            os.close(descriptor)

    def _same_files(self, entry: Entry) -> bool:
        """Return whether two names refer to the same file, or to two files with the same content."""
        with contextlib.ExitStack() as stack:
            one = self._open(entry.path)
            stack.callback(os.close, one)
            other = self._open(entry.target)
            stack.callback(os.close, other)
            if os.path.sameopenfile(one, other):
                return True
            while chunk := _read(one, _CHUNK):
                self._progress.check()
                if _read(other, len(chunk)) != chunk:
                    return False
            return not os.read(other, 1)


def _read(descriptor: int, size: int) -> bytes:
    """Return `size` bytes, fewer only at the end."""
    data = os.read(descriptor, size)
    while len(data) < size and (more := os.read(descriptor, size - len(data))):
        data += more
    return data
