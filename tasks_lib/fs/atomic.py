"""Atomic writes: temporary files that get their final name once, from the open file, when they are complete."""

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

from tasks_lib.errors import FetchError, escape_text
from tasks_lib.fs import system_calls
from tasks_lib.fs.files import Durability, convert_os_errors, parent_of, sync_file

#: Buffer size of a spool in bytes.
_SPOOL_BUFFER: Final = 1 << 18
#: They make names unique: among all processes that ever have this process id, and within this process.
_RUN: Final = os.urandom(8).hex()
_COUNTER: Final = itertools.count()
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def scratch_name() -> str:
    """Return a unique name for `tmp`; it starts with the id of this process."""
    return f"{os.getpid()}-{_RUN}{next(_COUNTER):x}"


class _Spool(io.FileIO):
    """An anonymous file that converts an OSError of `write` to CacheUnavailableError."""

    def __init__(self, descriptor: int, directory: Path) -> None:
        super().__init__(descriptor, "r+b")
        self._directory = directory
        self._size = 0

    def write(self, chunk: Any) -> int:
        """Write some of `chunk`; return how many bytes.

        Raises:
            CacheUnavailableError: no space, or another error of the file system.
        """
        with convert_os_errors(self._directory, self._size + len(chunk)):
            written = super().write(chunk)
        self._size += written
        return written


class Temporary:
    """A temporary file; it has no name if the system supports that, so that a kill leaves nothing behind.

    Elsewhere (NFS, macOS) it has a unique name in `directory` and is locked while it is written; the next run removes
    unlocked ones.
    """

    def __init__(self, directory: Path, mode: int) -> None:
        """Create the file; `finish` sets its `mode`.

        Raises:
            OSError: the file system rejects the operation.
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

    def write(self, chunk: bytes | memoryview) -> None:
        """Write all of `chunk`.

        Raises:
            OSError: the file system rejects the operation.
        """
        view = memoryview(chunk)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def spool(self, directory: Path) -> BinaryIO:
        """Return the content as a buffered file object, which never gets a name; close this temporary file."""
        spool = _Spool(os.dup(self.descriptor), directory)
        self.close()
        return io.BufferedRandom(spool, _SPOOL_BUFFER)

    def finish(self, durability: Durability) -> None:
        """Set the mode and, unless `durability` is "fast", sync the file; call it before the file gets its final name.

        Raises:
            OSError: the file system rejects the operation.
        """
        os.fchmod(self.descriptor, self._mode)
        if durability == "full":
            sync_file(self.descriptor)

    def close(self) -> None:
        """Close the file and remove its temporary name; without a final name it is deleted."""
        with contextlib.suppress(OSError):
            os.close(self.descriptor)
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()


def require_replaceable(path: Path, word: str) -> None:
    """Check that a rename to `path` replaces at most a file or a dangling symlink; as root, it would replace a device.

    Args:
        path: the path.
        word: what the command line calls it.

    Raises:
        FetchError: something else is there, perhaps behind a symlink.
    """
    if path.exists() and not path.is_file():
        raise FetchError(f"{escape_text(str(path))} is not a regular file", hint=f"choose another {word}")


def require_destination(path: Path, word: str) -> None:
    """Check that a file can be created in an existing directory, or replaced there; the arguments are the same.

    Raises:
        FetchError: the directory does not exist, or as `require_replaceable`.
    """
    if not path.absolute().parent.is_dir():
        raise FetchError(
            f"{escape_text(str(path.parent))} is not a directory", hint=f"create it, or choose another {word}"
        )
    require_replaceable(path, word)


def link_new(descriptor: int, temporary: Path | None, final: str | Path) -> None:
    """Link an open file to the new name `final`; the open file gets it even if its temporary name was replaced.

    On a file system without hard links the temporary name is renamed instead; this may replace the same content that
    another process has just put there.

    Raises:
        FileExistsError: `final` exists.
        OSError: the file system rejects the operation.
    """
    try:
        system_calls.link_open_file(descriptor, final, known_as=temporary)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in system_calls.NOT_SUPPORTED or temporary is None:
            raise
        if not system_calls.is_same(descriptor, temporary):
            raise
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, "already exists", str(final)) from error
        temporary.rename(final)


def replace_file(descriptor: int, temporary: Path | None, final: str | Path, scratches: Path) -> None:
    """Link an open file to `final`, atomically replacing an existing file, by way of a unique name in `scratches`.

    Raises:
        OSError: the file system rejects the operation.
    """
    _replace(final, scratches, lambda name: link_new(descriptor, temporary, name))


def link_over(descriptor: int, known_as: str | Path, final: str | Path, scratches: Path) -> None:
    """Like `replace_file`, for an open file that keeps its name `known_as`.

    Raises:
        OSError: the file system rejects the operation; one of `NOT_OFFERED` if this file cannot be linked.
    """
    _replace(final, scratches, lambda name: system_calls.link_open_file(descriptor, name, known_as=known_as))


def replace_symlink(target: str, final: Path) -> None:
    """Make `final` a symlink with this text, atomically; create its directory.

    Raises:
        OSError: the file system rejects the operation, for example because `final` is a directory.
    """
    try:
        os.symlink(target, final)  # noqa: PTH211  # for each artifact of a run
    except FileNotFoundError:
        directory = parent_of(str(final))
        try:
            os.mkdir(directory)  # noqa: PTH102  # mostly only the last one is missing
        except OSError:
            os.makedirs(directory, exist_ok=True)  # noqa: PTH103
        replace_symlink(target, final)
    except FileExistsError:
        scratch = final.with_name(f".{scratch_name()}")
        scratch.symlink_to(target)
        try:
            scratch.replace(final)
        except OSError:
            scratch.unlink()
            raise


def _replace(final: str | Path, scratches: Path, give: Callable[[str | Path], None]) -> None:
    """Call `give` with `final`; if that exists, call it with a unique name, then rename that to `final`."""
    try:
        give(final)
    except FileExistsError:
        scratch = scratches / scratch_name()
        try:
            give(scratch)
            scratch.replace(final)
        finally:
            scratch.unlink(missing_ok=True)  # a rename onto the same file leaves both names


def write_new(path: Path, content: bytes) -> bool:
    """Write a new file atomically, with the mode of any new file; return False if something has its name.

    Raises:
        OSError: the file system rejects the operation.
    """
    temporary = Temporary(path.parent, 0o666 & ~read_umask())
    try:
        temporary.write(content)
        temporary.finish("fast")
        link_new(temporary.descriptor, temporary.path, path)
    except FileExistsError:
        return False
    finally:
        temporary.close()
    return True


def read_umask() -> int:
    """Return the mode bits that new files of this process lack."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_best_effort(path: Path, content: bytes | bytearray, mode: int = 0o600) -> None:
    """Write a file atomically, by default accessible only to its owner; ignore errors.

    Temporary files of killed runs are removed. If another process writes the same file at the same time, its write may
    be lost.
    """
    asides = f".{path.name}."
    aside = path.with_name(asides + os.urandom(4).hex())
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):  # noqa: PTH208  # a prefix that may contain any character, unlike a glob
            if name.startswith(asides):
                path.with_name(name).unlink()
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
