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
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from tasks_lib.fs import system_calls
from tasks_lib.fs.files import Durability, translated

#: Bytes that a spool collects before it writes.
_SPOOL_BUFFER: Final = 1 << 18
#: What makes names free: this process among all of its number, and its names among each other.
_RUN: Final = os.urandom(8).hex()
_NUMBERS: Final = itertools.count()
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


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
    """A file in the making: nameless where the system offers that, so that a kill leaves nothing.

    Elsewhere (NFS, macOS) it has a name of its own in `directory`, locked while it is written; the next run sweeps what
    is not.
    """

    def __init__(self, directory: Path, mode: int) -> None:
        """Make it.

        Raises:
            OSError: the file system refused.
        """
        self.path: Path | None = None
        self._mode = mode
        nameless = system_calls.open_nameless(directory)
        if nameless is not None:
            self.descriptor = nameless
            return
        self.path = directory / scratch_name()
        self.descriptor = os.open(self.path, _CREATE, 0o600)
        with contextlib.suppress(OSError):
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

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
            system_calls.sync(self.descriptor)

    def close(self) -> None:
        """Close it; without a final name it is gone."""
        with contextlib.suppress(OSError):
            os.close(self.descriptor)
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()


def link_new(descriptor: int, temporary: Path | None, final: Path) -> None:
    """Give an open file the name `final`, which must not stand; it is the open file, whatever its own name is now.

    On a file system without links its temporary name is changed to it, and then another process's same content may be
    replaced by ours.

    Raises:
        FileExistsError: something else stands there.
        OSError: the file system refused.
    """
    try:
        system_calls.link_open_file(descriptor, final, known_as=temporary)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in system_calls.NOT_OFFERED or temporary is None:
            raise
        if not system_calls.is_same(descriptor, temporary):
            raise
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, "stands already", str(final)) from error
        temporary.rename(final)


def replace_file(descriptor: int, temporary: Path | None, final: Path, scratches: Path) -> None:
    """As `link_new`, but what stands at `final` is replaced in one step, by way of a free name in `scratches`.

    Raises:
        OSError: the file system refused.
    """
    _replace(final, scratches, lambda name: link_new(descriptor, temporary, name))


def link_over(descriptor: int, known_as: Path, final: Path, scratches: Path) -> None:
    """As `replace_file`, for an open file that keeps the name `known_as`.

    Raises:
        OSError: the file system refused; one of `NOT_OFFERED` where it has no links for this file.
    """
    _replace(final, scratches, lambda name: system_calls.link_open_file(descriptor, name, known_as=known_as))


def _replace(final: Path, scratches: Path, give: Callable[[Path], None]) -> None:
    """Let `give` give a file the name `final`, or else a free name that is renamed to `final`."""
    try:
        give(final)
    except FileExistsError:
        scratch = scratches / scratch_name()
        try:
            give(scratch)
            scratch.replace(final)
        finally:
            scratch.unlink(missing_ok=True)  # a rename onto the same file leaves both names


def write_best_effort(path: Path, content: bytes) -> None:
    """Write a file in one step, so that nobody else can write it; a cache that refuses just does not help.

    What killed runs left of theirs goes; another process that is writing just now loses a hint.
    """
    asides = f".{path.name}."
    aside = path.with_name(asides + os.urandom(4).hex())
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):  # noqa: PTH208  # a name that begins so, and may hold any character
            if name.startswith(asides):
                path.with_name(name).unlink()
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
