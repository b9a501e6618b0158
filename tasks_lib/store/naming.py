"""Files in the making, and how they get a name: once, from the open file, when they are complete.

Internal to the store.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import itertools
import os
from pathlib import Path
from typing import Any, BinaryIO, Final

from tasks_lib.store.files import Durability, translated

#: What a file system says that has no nameless files, or no links. Source: open(2) O_TMPFILE, link(2).
_NOT_OFFERED: Final = (
    errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EPERM, errno.EXDEV, errno.ENOSYS, errno.EMLINK,
)  # fmt: skip
#: Bytes that a spool collects before it writes.
_SPOOL_BUFFER: Final = 1 << 18
#: What makes names free: this process among all of its number, and its names among each other.
_RUN: Final = os.urandom(8).hex()
_NUMBERS: Final = itertools.count()


def scratch_name() -> str:
    """Return a free name that says whose it is, for `tmp`."""
    return f"{os.getpid()}-{_RUN}{next(_NUMBERS):x}"


class _Spool(io.FileIO):
    """An anonymous file whose refusals are ours."""

    def __init__(self, descriptor: int, directory: Path) -> None:
        super().__init__(descriptor, "r+b")
        self._directory = directory
        self._size = 0

    def write(self, chunk: Any) -> int:
        """Write some of `chunk`.

        Raises:
            StoreUnavailableError: no space, or another refusal of the file system.
        """
        with translated(self._directory, self._size + len(chunk)):
            written = super().write(chunk)
        self._size += written
        return written


class Temporary:
    """A file in the making: nameless where the file system offers that, so that a kill leaves nothing.

    Elsewhere (NFS) it has a name of its own in `directory`, locked while it is written; prune sweeps what is not.
    """

    def __init__(self, directory: Path, mode: int) -> None:
        """Make it.

        Raises:
            OSError: the file system refused.
        """
        self.path: Path | None = None
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.descriptor = os.open(directory, flags | os.O_TMPFILE, 0o600)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
            self.path = directory / scratch_name()
            self.descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with contextlib.suppress(OSError):
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._mode = mode

    def write(self, chunk: bytes) -> None:
        """Write the whole of `chunk`.

        Raises:
            OSError: the file system refused.
        """
        view = memoryview(chunk)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def spool(self, directory: Path) -> BinaryIO:
        """Return the file alone, for what is written and read again and never named."""
        spool = _Spool(os.dup(self.descriptor), directory)
        self.close()
        return io.BufferedRandom(spool, _SPOOL_BUFFER)

    def finish(self, durability: Durability) -> None:
        """Let the bytes and the mode be on the disk, before any name is.

        Raises:
            OSError: the file system refused.
        """
        os.fchmod(self.descriptor, self._mode)
        if durability == "full":
            os.fsync(self.descriptor)

    def close(self) -> None:
        """Close it; without a final name it is gone."""
        with contextlib.suppress(OSError):
            os.close(self.descriptor)
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()


def name_once(descriptor: int, temporary: Path | None, final: Path) -> None:
    """Give an open file the name `final`, which must not stand; it is the open file, whatever its own name is now.

    Raises:
        FileExistsError: something else stands there.
        OSError: the file system refused.
    """
    try:
        # with a descriptor Python calls linkat, which can follow; the path is absolute, so that it means nothing else
        os.link(f"/proc/self/fd/{descriptor}", final, src_dir_fd=descriptor, follow_symlinks=True)
    except FileExistsError:
        # over NFS an answer may be lost and the repeated request find its own work
        if not is_same(descriptor, final):
            raise
    except OSError as error:
        if error.errno not in _NOT_OFFERED or temporary is None:
            raise
        _name_by_path(descriptor, temporary, final)


def _name_by_path(descriptor: int, temporary: Path, final: Path) -> None:
    """Do it without /proc, or without links at all: then another process's same content may be replaced by ours."""
    if not is_same(descriptor, temporary):
        raise FileNotFoundError(errno.ENOENT, "was replaced while it was written", str(temporary))
    try:
        os.link(temporary, final, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, "stands already", str(final)) from error
        temporary.rename(final)


def name_over(descriptor: int, temporary: Path | None, final: Path, scratches: Path) -> None:
    """As `name_once`, but what stands at `final` is replaced in one step, by way of a free name in `scratches`.

    Raises:
        OSError: the file system refused.
    """
    try:
        name_once(descriptor, temporary, final)
    except FileExistsError:
        scratch = scratches / scratch_name()
        name_once(descriptor, temporary, scratch)
        try:
            scratch.replace(final)
        finally:
            scratch.unlink(missing_ok=True)  # a rename onto the same file leaves both names


def is_same(descriptor: int, path: Path) -> bool:
    """Whether `path` is a name of the open file."""
    try:
        named = os.lstat(path)
    except OSError:
        return False
    return os.path.samestat(os.fstat(descriptor), named)
