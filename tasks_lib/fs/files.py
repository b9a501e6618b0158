"""Files and directories of the cache: opened without following symlinks, created with the group rights of their parent.

Modes do not depend on the umask: directories get 0755 and blobs 0444, except that a stricter umask keeps a directory
private.
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

from tasks_lib.errors import CacheUnavailableError, escape_text
from tasks_lib.fs import system_calls
from tasks_lib.gil import released
from tasks_lib.progress import Progress

#: "full": a file that has a name survives a power loss; "fast": no fsync, for disposable machines.
Durability = Literal["full", "fast"]
#: Bytes per read while hashing: large enough that hashlib releases the interpreter lock.
CHUNK: Final = 1 << 20
#: Maximum size of a text file of the cache; half a million lines of the hash cache are 65 MB.
_MAX_TEXT_BYTES: Final = 256 << 20
#: Size of the read buffer of each thread: the bytes are hashed while they are still in the processor's cache.
_HASH_CHUNK: Final = 1 << 18
_THREAD_LOCAL: Final = threading.local()
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
#: errno values of opening a symlink or a socket. Source: open(2) of Linux and of macOS.
_NOT_REGULAR: Final = (errno.ELOOP, errno.ENXIO, errno.EOPNOTSUPP)
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND
#: Mode of files that other users must not open: a lock needs no write permission. Source: flock(2).
PRIVATE: Final = 0o600


class NotRegularError(OSError):
    """A symlink, FIFO, directory or device where a regular file is expected."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; like `open_regular_descriptor`, but return a file object."""
    return os.fdopen(open_regular_descriptor(path)[0], "rb", buffering=0)


def open_regular_descriptor(path: str | Path) -> tuple[int, os.stat_result]:
    """Open a regular file for reading, without following a symlink or blocking on a FIFO.

    Return its descriptor, which the caller closes, and its stat result.

    Raises:
        NotRegularError: it is not a regular file.
        OSError: it does not exist or cannot be opened.
    """
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        if error.errno in _NOT_REGULAR:
            raise NotRegularError(error.errno, "not a regular file", str(path)) from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise NotRegularError(errno.EINVAL, "not a regular file", str(path))
    return descriptor, status


def read_text(file: BinaryIO) -> str:
    """Read the rest of an ASCII text file of the cache; other bytes become U+FFFD.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large.
    """
    if os.fstat(file.fileno()).st_size > _MAX_TEXT_BYTES:
        raise ValueError(f"larger than {_MAX_TEXT_BYTES} bytes")
    parts = []
    while part := file.read(CHUNK):
        parts.append(part)
    return b"".join(parts).decode("ascii", "replace")


#: Content of a `.gitignore`: everything beside it and below, also the file itself.
_IGNORE_ALL: Final = "*\n"


def append_text(path: Path, text: str, how: Literal["longer", "anew"]) -> None:
    """Append `text` in one write, or replace the content if `how` is "anew"; ignore errors.

    Writes of several processes do not interleave.
    """
    flags = _APPEND | (os.O_TRUNC if how == "anew" else 0)
    with contextlib.suppress(OSError):
        descriptor = open_shared(path, flags)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.write(descriptor, text.encode("ascii"))
        finally:
            os.close(descriptor)


def hash_descriptor(descriptor: int, algorithm: str, progress: Progress | None = None) -> str:
    """Return the hex digest of the content of an open file; its position does not change.

    Raises:
        OSError: it cannot be read.
        CancelledError: the run is cancelled.
    """
    digest = hashlib.new(algorithm)
    if not hasattr(_THREAD_LOCAL, "view"):
        _THREAD_LOCAL.view = memoryview(bytearray(_HASH_CHUNK))
    view: memoryview = _THREAD_LOCAL.view
    offset = 0
    while count := os.preadv(descriptor, (view,), offset):
        digest.update(view[:count])
        offset += count
        if progress is not None:
            progress.advance(count)
            progress.check()
    return digest.hexdigest()


def parent_of(place: str) -> str:
    """Return the directory of a path; for thousands of files `os.path.dirname` is slow."""
    above, slash, _ = place.rpartition("/")
    return above or slash or "."


def make_directory(path: str | Path, root: str | Path, durability: Durability = "full") -> None:
    """Create a directory and its parents, writable for the owner; below `root` for the group too if the parent is.

    Raises:
        OSError: the file system rejects the operation.
    """
    place = os.fspath(path)
    parent = parent_of(place)
    try:
        new = _make_one_directory(place)
    except FileNotFoundError:
        make_directory(parent, root, durability)
        new = _make_one_directory(place)
    if not new:
        return
    shared = _inherited_bits(parent, int(time.monotonic())) if place.startswith(f"{root}/") else 0
    if shared & stat.S_IWGRP:
        os.chmod(place, 0o755 | shared)  # noqa: PTH101
    sync_directory(parent, durability)


def make_ignored_directory(path: Path, durability: Durability = "full") -> None:
    """Create a directory of outputs, which git ignores; an existing one is left as it is unless it is empty.

    Raises:
        OSError: the file system rejects the operation.
    """
    make_directory(path, path, durability)
    with contextlib.suppress(OSError), os.scandir(path) as entries:  # read-only, or another process fills it
        if next(entries, None) is None:
            append_text(path / ".gitignore", _IGNORE_ALL, "anew")


def _make_one_directory(path: str) -> bool:
    """Create one directory; return False if it exists, which a read-only file system may report as another error."""
    try:
        os.mkdir(path, 0o755)  # noqa: PTH102
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError:  # for an existing directory too, a system may report EROFS first. Source: CPython, os.makedirs
        if os.path.isdir(path):  # noqa: PTH112
            return False
        raise
    return True


def open_shared(path: str | Path, flags: int, mode: int = 0o644) -> int:
    """Open or create a file that its group can read and write if its directory is group-writable.

    Return its descriptor.

    Raises:
        OSError: the file system rejects the operation.
    """
    grouped = _inherited_bits(parent_of(os.fspath(path)), int(time.monotonic())) & stat.S_IWGRP
    mode |= 0o060 if grouped else 0
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if grouped or mode == PRIVATE:
        with contextlib.suppress(OSError):  # another user owns the file
            if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
                os.fchmod(descriptor, mode)
    return descriptor


@functools.lru_cache(maxsize=64)
def _inherited_bits(directory: str, _second: int) -> int:
    """Return the mode bits that new entries of a directory inherit; cached for a second, for thousands of files."""
    return os.stat(directory).st_mode & (stat.S_ISGID | stat.S_IWGRP)  # noqa: PTH116 - the key of the cache is a string


#: Seconds of a sync from which on other threads may work meanwhile: less time costs less than waking one of them.
_SLOW_SYNC_S: Final = 0.0003


class _Disk:
    """The speed of syncs, as far as it is known."""

    is_slow = True

    @classmethod
    def sync(cls, descriptor: int) -> None:
        begun_s = time.perf_counter()
        system_calls.sync(descriptor)
        cls.is_slow = time.perf_counter() - begun_s > _SLOW_SYNC_S


def sync_file(descriptor: int) -> None:
    """Sync an open file, as `system_calls.sync`; let other threads of `run_alone` work if the last sync was slow.

    Raises:
        OSError: the file system rejects the operation.
    """
    if _Disk.is_slow:
        with released:
            _Disk.sync(descriptor)
    else:
        _Disk.sync(descriptor)


def sync_directory(path: str | Path, durability: Durability = "full") -> None:
    """Sync a directory, so that a new name in it survives a power loss. Source: fsync(2), NOTES on directories.

    Raises:
        OSError: the file system rejects the operation.
    """
    if durability == "fast":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: the file system cannot sync directories
            raise
    finally:
        os.close(descriptor)


def require_space(directory: Path, needed: int) -> None:
    """Check that `needed` bytes fit on the file system, if it reports its free space.

    Raises:
        OSError: they do not fit (ENOSPC).
    """
    status = os.statvfs(directory)
    if needed > status.f_bavail * status.f_frsize and status.f_blocks:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


@contextlib.contextmanager
def convert_os_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Convert an OSError to the error that `cache_error` returns.

    Raises:
        CacheUnavailableError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise cache_error(path, error, needed) from error


def cache_error(path: str | Path, error: OSError, needed: int = 0) -> CacheUnavailableError:
    """Return the error to raise when `path` fails with `error`; `needed` is the number of bytes to write, if known."""
    message = f"{escape_text(str(path))} cannot be used: {error.strerror or error}"
    if needed:
        message += f"; {needed} bytes are needed"
    if error.errno in _NO_SPACE:
        return CacheUnavailableError(
            message + _free_space(Path(path)),
            hint="free some space (`doit prune --dry-run` lists unused content) and run again",
        )
    hints = {
        errno.EROFS: "the cache is read-only: set FETCH_PRIVATE_CACHE_DIR to a writable directory for new content",
        errno.EACCES: "check its permissions, or set FETCH_PRIVATE_CACHE_DIR to your own directory for new content",
        errno.EMFILE: "too many open files: raise the limit (`ulimit -n`) or run fewer tasks (FETCH_JOBS)",
        errno.EFBIG: "the file exceeds the file size limit: raise the limit (`ulimit -f`)",
    }
    fallback = "check free space and permissions, or choose another cache directory with FETCH_CACHE_DIR"
    return CacheUnavailableError(message, hint=hints.get(error.errno or 0, fallback))


def _free_space(path: Path) -> str:
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            status = os.statvfs(place)
            return f", {status.f_bavail * status.f_frsize} bytes are free"
    return ""
