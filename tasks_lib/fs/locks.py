"""Locks that the kernel frees when their holder ends, however it ends.

Internal to the store. The file is only a handle: its existence says nothing, its content is the holder's process id,
for those who wait. Prune may remove a file that nobody holds; whoever got the lock of a removed file takes it anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tasks_lib.errors import CacheUnavailableError, escaped
from tasks_lib.fs import files, system_calls
from tasks_lib.gil import released
from tasks_lib.progress import Progress

#: Seconds between two looks at a lock that another process holds.
_POLL_S: Final = 0.1
#: Bytes of the holder's process id in a lock file, filled with blanks over what an earlier holder left.
_HOLDER: Final = 20
_FLAGS: Final = os.O_RDWR | os.O_CREAT


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float, progress: Progress) -> Iterator[None]:
    """Hold the lock at `path` alone.

    Raises:
        StoreUnavailableError: another process held it for `timeout_s` seconds, or it cannot be made.
        CancelledError: the run was asked to stop while waiting.
    """
    descriptor = _taken(path, fcntl.LOCK_EX, timeout_s, progress)
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its note
            os.pwrite(descriptor, b"%-*d" % (_HOLDER, os.getpid()), 0)
        yield
    finally:
        os.close(descriptor)


def pass_through(path: Path, *, timeout_s: float, progress: Progress) -> None:
    """Wait until nobody holds the lock at `path` alone; many may pass at once.

    Raises:
        StoreUnavailableError, CancelledError: as `locked`.
    """
    os.close(_taken(path, fcntl.LOCK_SH, timeout_s, progress))


@contextlib.contextmanager
def tried(path: Path) -> Iterator[bool]:
    """Give True and hold the lock, or False at once when somebody else does; `path` must be a file that stands."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    except OSError:
        yield False
        return
    try:
        yield _try(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def lease(descriptor: int) -> None:
    """Mark an open file as in use until it is closed; a file system without locks has no leases."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def sweep(directory: Path) -> None:
    """Remove what processes left there that are gone: their id is free, and nobody holds the file."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            owner = entry.name.partition("-")[0]
            if not owner.isdigit() or _is_alive(int(owner)):
                continue
            with contextlib.suppress(OSError), tried(Path(entry.path)) as free:
                if free:
                    os.unlink(entry.path)  # noqa: PTH108 - a directory entry


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _taken(path: Path, kind: int, timeout_s: float, progress: Progress) -> int:
    """Return the descriptor of a lock file that is locked and still stands under its name."""
    while True:
        with files.translated(path):
            descriptor = files.open_common(path, _FLAGS)
        try:
            _wait_for(descriptor, kind, path, timeout_s, progress)
        except BaseException:
            os.close(descriptor)
            raise
        if system_calls.is_same(descriptor, path):
            return descriptor
        os.close(descriptor)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for(descriptor: int, kind: int, path: Path, timeout_s: float, progress: Progress) -> None:
    begun = time.monotonic()
    told = ""
    while not _lock(descriptor, kind, path):
        holder = escaped(os.pread(descriptor, _HOLDER, 0).strip()) or "unknown"
        if holder != told:
            progress.phase("wait", holder=holder)
            told = holder
        if time.monotonic() - begun > timeout_s:
            raise CacheUnavailableError(
                f"waited {timeout_s:.0f} s for process {holder}, which holds {escaped(str(path))}",
                hint=f"look at process {holder}: when it hangs, stop it and run again;"
                " FETCH_LOCK_TIMEOUT_S says how long to wait",
            )
        progress.check()
        with released:
            time.sleep(_POLL_S)


def _lock(descriptor: int, kind: int, path: Path) -> bool:
    with files.translated(path):
        return _try(descriptor, kind)
