"""Files and directories of the cache: opened without following anything, made for those who may write there.

Internal to the store. Nothing here depends on the umask: a directory is made 0755 and a blob 0444 whatever it says
(a stricter umask keeps a directory private).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Literal

from tasks_lib.errors import CacheUnavailableError, escaped
from tasks_lib.fs import system_calls
from tasks_lib.gil import released
from tasks_lib.progress import Progress

#: "full": what has a name survives a power loss; "fast": no fsync, for machines that are thrown away.
Durability = Literal["full", "fast"]
#: Bytes per read while hashing: large enough that hashlib works without the interpreter lock.
CHUNK: Final = 1 << 20
#: Most bytes of a text file of the cache; half a million lines of the memo are 65 MB.
_MAX_TEXT_BYTES: Final = 256 << 20
#: Bytes that are read and hashed while they are still in the processor's cache, into one buffer for each thread.
_HASH_CHUNK: Final = 1 << 18
_OWN: Final = threading.local()
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
#: What opening a symlink and opening a socket says. Source: open(2) of Linux and of macOS.
_NOT_REGULAR: Final = (errno.ELOOP, errno.ENXIO, errno.EOPNOTSUPP)
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
        if error.errno in _NOT_REGULAR:
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
    try:
        new = _made(path)
    except FileNotFoundError:
        make_directory(path.parent, root, durability)
        new = _made(path)
    if not new:
        return
    shared = _shared(str(path.parent), int(time.monotonic())) if str(path).startswith(f"{root}/") else 0
    if shared & stat.S_IWGRP:
        path.chmod(0o755 | shared)
    sync_directory(path.parent, durability)


def _made(path: Path) -> bool:
    """Make one directory; False when it stands, which a read-only file system may say in its own way."""
    try:
        path.mkdir(mode=0o755)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError:  # of what stands a system may say first that it is read-only. Source: CPython, os.makedirs
        if path.is_dir():
            return False
        raise
    return True


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
        with released:
            system_calls.sync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without it
            raise
    finally:
        os.close(descriptor)


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


def unusable(path: Path, error: OSError, needed: int = 0) -> CacheUnavailableError:
    """Return the error for a cache path that the system refuses; `needed` is how many bytes were to go there."""
    told = f"{escaped(str(path))} cannot be used: {error.strerror or error}"
    if needed:
        told += f"; {needed} bytes are needed"
    if error.errno in _NO_SPACE:
        return CacheUnavailableError(
            told + _free(path), hint="free some space (`doit prune --dry-run` says what is not needed) and run again"
        )
    hints = {
        errno.EROFS: "the cache is read-only: what it holds is used; FETCH_PRIVATE_CACHE_DIR gives the rest a place",
        errno.EACCES: "check its permissions, or give what is new a place of your own: FETCH_PRIVATE_CACHE_DIR",
        errno.EMFILE: "too many files are open: raise the limit (`ulimit -n`) or run fewer tasks (FETCH_JOBS)",
        errno.EFBIG: "a file of that size is not allowed here: raise the limit (`ulimit -f`)",
    }
    fallback = "check space and permissions, or set another cache directory with FETCH_CACHE_DIR"
    return CacheUnavailableError(told, hint=hints.get(error.errno or 0, fallback))


def _free(path: Path) -> str:
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            found = os.statvfs(place)
            return f", {found.f_bavail * found.f_frsize} bytes are free"
    return ""
