"""A tree against the archive that it came from, byte by byte.

The record of a tree holds no digests (docs/decisions/0003): the archive is read again, and each entry is compared with
what stands, so that an edit that keeps the size is found too. Nothing is followed and nothing is written.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from tasks_lib.archive import Entry
from tasks_lib.progress import Progress

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS: Final = {
    "file": stat.S_IFREG, "hardlink": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK,
}  # fmt: skip
_CHUNK: Final = 1 << 20


class Comparison:
    """A sink for `archive.read`; `differences` tells path -> what is wrong there."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self._root = os.fsencode(root)
        self._progress = progress
        self.differences: dict[str, str] = {}

    def add(self, entry: Entry) -> None:
        """Compare one entry.

        Raises:
            ArchiveError: the archive itself is damaged.
            CancelledError: the run was asked to stop.
        """
        self._progress.check()
        try:
            reason = self._reason(entry)
        except OSError as error:
            reason = error.strerror or "cannot be read"
        for _ in entry.chunks:  # the reader goes on behind the content
            pass
        if reason:
            self.differences[os.fsdecode(entry.path)] = reason

    def _reason(self, entry: Entry) -> str:
        path = self._root + b"/" + entry.path
        status = os.lstat(path)
        if stat.S_IFMT(status.st_mode) != _KINDS[entry.kind]:
            return f"is no {entry.kind}"
        if entry.kind == "symlink":
            return "" if os.readlink(path) == entry.target else "leads elsewhere"  # noqa: PTH115 - bytes
        if entry.kind == "hardlink":
            other = os.lstat(self._root + b"/" + entry.target)
            same = os.path.samestat(status, other) or self._same_files(path, self._root + b"/" + entry.target)
            return "" if same else "differs from the file that it is linked to"
        if entry.kind == "directory":
            return ""
        if bool(status.st_mode & 0o100) != bool(entry.executable):
            return "its executable bit changed"
        return self._content(path, entry)

    def _content(self, path: bytes, entry: Entry) -> str:
        descriptor = os.open(path, _OPEN)
        try:
            for chunk in entry.chunks:
                self._progress.advance(len(chunk))
                self._progress.check()
                if _read(descriptor, len(chunk)) != chunk:
                    return "its content changed"
            return "it is longer" if os.read(descriptor, 1) else ""
        finally:
            os.close(descriptor)

    def _same_files(self, one: bytes, other: bytes) -> bool:
        first, second = os.open(one, _OPEN), os.open(other, _OPEN)
        try:
            while chunk := _read(first, _CHUNK):
                if _read(second, len(chunk)) != chunk:
                    return False
            return not os.read(second, 1)
        finally:
            os.close(first)
            os.close(second)


def _read(descriptor: int, size: int) -> bytes:
    """Return `size` bytes, less only at the end."""
    found = os.read(descriptor, size)
    while len(found) < size and (more := os.read(descriptor, size - len(found))):
        found += more
    return found
