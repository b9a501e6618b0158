"""Files of the cache: opened without following anything, named once and only when complete.

Internal to the store. Nothing here depends on the umask: a directory is made 0755 and a blob 0444 whatever it says
(a stricter umask keeps a directory private).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import itertools
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from tasks_lib.errors import StoreUnavailableError, escaped
from tasks_lib.progress import Progress

#: "full": what has a name survives a power loss; "fast": no fsync, for machines that are thrown away.
Durability = Literal["full", "fast"]
#: Bytes per read while hashing: large enough that hashlib works without the interpreter lock.
CHUNK: Final = 1 << 20
#: Most bytes of a text file of the cache; half a million lines of the memo are 65 MB.
_MAX_TEXT_BYTES: Final = 256 << 20
#: What a file system says that has no nameless files, or no links. Source: open(2) O_TMPFILE, link(2).
_NOT_OFFERED: Final = (
    errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EPERM, errno.EXDEV, errno.ENOSYS, errno.EMLINK,
)  # fmt: skip
#: Bytes that are read and hashed while they are still in the processor's cache, into one buffer for each thread.
_HASH_CHUNK: Final = 1 << 18
_OWN: Final = threading.local()
#: Bytes that a spool collects before it writes.
_SPOOL_BUFFER: Final = 1 << 18
#: What makes names free: this process among all of its number, and its names among each other.
_RUN: Final = secrets.token_hex(8)
_NUMBERS: Final = itertools.count()
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class NotRegularError(OSError):
    """A symlink, FIFO, directory or device stands where a regular file belongs."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, as `regular`."""
    return os.fdopen(regular(path)[0], "rb", buffering=0)


def regular(path: Path) -> tuple[int, os.stat_result]:
    """Open a regular file for reading, never through a symlink and never blocking on a FIFO; what it is comes along.

    Raises:
        NotRegularError: anything but a regular file.
        OSError: missing, or refused.
    """
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise NotRegularError(error.errno, "no regular file", str(path)) from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise NotRegularError(errno.EINVAL, "no regular file", str(path))
    return descriptor, status


def text_of(file: BinaryIO) -> str:
    """Return the rest of a text file of the cache, which is ASCII; anything else in it becomes U+FFFD.

    Raises:
        OSError: it cannot be read.
        ValueError: it is endless.
    """
    if os.fstat(file.fileno()).st_size > _MAX_TEXT_BYTES:
        raise ValueError("too long")
    parts = []
    while part := file.read(CHUNK):
        parts.append(part)
    return b"".join(parts).decode("ascii", "replace")


def append_text(path: Path, text: str, how: Literal["longer", "anew"]) -> None:
    """Add `text` in one write, which no other process's write divides; a cache that cannot be written forgets."""
    flags = _APPEND | (os.O_TRUNC if how == "anew" else 0)
    with contextlib.suppress(OSError):
        descriptor = open_common(path, flags)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.write(descriptor, text.encode("ascii"))
        finally:
            os.close(descriptor)


def hex_of(descriptor: int, algorithm: str, progress: Progress | None = None) -> str:
    """Return the hex digest of an open file's content, leaving its position alone.

    Raises:
        OSError: it cannot be read.
        CancelledError: the run was asked to stop.
    """
    digest = hashlib.new(algorithm)
    if not hasattr(_OWN, "view"):
        _OWN.view = memoryview(bytearray(_HASH_CHUNK))
    view: memoryview = _OWN.view
    offset = 0
    while count := os.preadv(descriptor, (view,), offset):
        digest.update(view[:count])
        offset += count
        if progress is not None:
            progress.advance(count)
            progress.check()
    return digest.hexdigest()


def make_directory(path: Path, root: Path, durability: Durability = "full") -> None:
    """Make a directory and those above it, writable for its owner only; for a group too where `root` is.

    Raises:
        OSError: the file system refused.
    """
    if path.is_dir():
        return
    make_directory(path.parent, root, durability)
    make_one(path, root, durability)


def make_one(path: Path, root: Path, durability: Durability) -> None:
    """Make one directory in one that is there, as `make_directory`.

    Raises:
        OSError: the file system refused.
    """
    try:
        path.mkdir(mode=0o755)
    except FileExistsError:
        return
    shared = _shared(str(path.parent), int(time.monotonic())) if root in path.parents else 0
    if shared & stat.S_IWGRP:
        path.chmod(0o755 | shared)
    sync_directory(path.parent, durability)


def open_common(path: Path, flags: int) -> int:
    """Open, or make, a file that whoever may write its directory may write; return its descriptor.

    Raises:
        OSError: the file system refused.
    """
    mode = 0o644 | _shared(str(path.parent), int(time.monotonic())) & stat.S_IWGRP
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if mode & stat.S_IWGRP:
        with contextlib.suppress(OSError):  # somebody else's already
            os.fchmod(descriptor, mode)
    return descriptor


@functools.lru_cache(maxsize=64)
def _shared(directory: str, _second: int) -> int:
    """Return the bits of a directory that what is new in it takes on; thousands of files ask within a second."""
    return os.stat(directory).st_mode & (stat.S_ISGID | stat.S_IWGRP)  # noqa: PTH116 - the key of the cache is a string


def sync_directory(path: Path, durability: Durability = "full") -> None:
    """Make a new name in `path` last through a power loss. Source: fsync(2), NOTES on directories.

    Raises:
        OSError: the file system refused.
    """
    if durability == "fast":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without it
            raise
    finally:
        os.close(descriptor)


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


def require_space(directory: Path, needed: int) -> None:
    """Return when `needed` bytes fit, as far as the file system tells.

    Raises:
        OSError: they do not.
    """
    found = os.statvfs(directory)
    if needed > found.f_bavail * found.f_frsize and found.f_blocks:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


@contextlib.contextmanager
def translated(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn a refusal of the file system into our own error; see `unusable`.

    Raises:
        StoreUnavailableError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise unusable(path, error, needed) from error


def unusable(path: Path, error: OSError, needed: int = 0) -> StoreUnavailableError:
    """Return the error for a cache path that the system refuses; `needed` is how many bytes were to go there."""
    told = f"{escaped(str(path))} cannot be used: {error.strerror or error}"
    if needed:
        told += f"; {needed} bytes are needed"
    if error.errno in _NO_SPACE:
        return StoreUnavailableError(
            told + _free(path), hint="free some space (`doit prune --dry-run` says what is not needed) and run again"
        )
    hints = {
        errno.EROFS: "the cache is read-only: what it holds is used; FETCH_PRIVATE_CACHE_DIR gives the rest a place",
        errno.EACCES: "check its permissions, or give what is new a place of your own: FETCH_PRIVATE_CACHE_DIR",
        errno.EMFILE: "too many files are open: raise the limit (`ulimit -n`) or run fewer tasks (FETCH_JOBS)",
        errno.EFBIG: "a file of that size is not allowed here: raise the limit (`ulimit -f`)",
    }
    fallback = "check space and permissions, or set another cache directory with FETCH_CACHE_DIR"
    return StoreUnavailableError(told, hint=hints.get(error.errno or 0, fallback))


def _free(path: Path) -> str:
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            found = os.statvfs(place)
            return f", {found.f_bavail * found.f_frsize} bytes are free"
    return ""
