"""File locks that the kernel releases when the last process that works under them exits, even if it is killed.

A program that is started under a lock inherits it (`held`), so that the lock of a killed process lasts as long as the
program that it started. Only the owner of a lock file and a trusted group can open it, because a user who can read
a file can hold its lock. The existence of a lock file has no meaning. Its content is the process id of the process that
took the lock, for messages to waiting processes. Prune may remove a file that is not locked; a process that locks a
removed file opens it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tasks_lib.errors import CacheUnavailableError, escape_text
from tasks_lib.fs import files, processes, system_calls
from tasks_lib.fs.directories import remove_tree
from tasks_lib.gil import released
from tasks_lib.progress import Progress

#: Seconds between attempts to take a lock that another process holds.
_POLL_S: Final = 0.1
#: Bytes of the process id in a lock file, padded with blanks to overwrite that of an earlier holder.
_HOLDER_SIZE: Final = 20
_FLAGS: Final = os.O_RDWR | os.O_CREAT
#: Seconds between two searches for the process that holds a lock.
_SEARCH_S: Final = 2.0
_LOWEST_INHERITED: Final = 10

_own: Final = threading.local()


def held() -> tuple[int, ...]:
    """Return the descriptors of the locks that this thread holds, for `pass_fds` of a program that works under them."""
    return tuple(getattr(_own, "descriptors", ()))


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float, progress: Progress) -> Iterator[None]:
    """Hold the exclusive lock at `path`.

    Raises:
        CacheUnavailableError: another process held it for `timeout_s` seconds, or it cannot be created.
        CancelledError: the run is cancelled while it waits.
    """
    descriptor = acquire(path, timeout_s=timeout_s, progress=progress)
    try:
        yield
    finally:
        release(descriptor)


def acquire(path: str | Path, *, timeout_s: float, progress: Progress) -> int:
    """Take the exclusive lock at `path`; return its descriptor, which the same thread passes to `release`.

    Raises:
        CacheUnavailableError, CancelledError: as `locked`.
    """
    descriptor = _make_high(_acquire(path, fcntl.LOCK_EX, timeout_s, progress))
    _own.descriptors = (*held(), descriptor)
    try:  # noqa: SIM105  # for thousands of files
        os.pwrite(descriptor, b"%-*d" % (_HOLDER_SIZE, os.getpid()), 0)
    except OSError:  # a full disk: the lock works without the process id
        pass
    return descriptor


def release(descriptor: int) -> None:
    """Release a lock that this thread took by `acquire`."""
    _own.descriptors = tuple(one for one in held() if one != descriptor)
    os.close(descriptor)


def pass_through(path: Path, *, timeout_s: float, progress: Progress) -> None:
    """Wait until no process holds the exclusive lock at `path`; several processes may pass at once.

    Raises:
        CacheUnavailableError, CancelledError: as `locked`.
    """
    os.close(_acquire(path, fcntl.LOCK_SH, timeout_s, progress))


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Try to take the lock at `path`: yield True while holding it, or False if another process holds it.

    If the file or directory does not exist, yield True without a lock.
    """
    access = os.O_RDONLY if path.is_dir() else os.O_RDWR
    try:
        descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    except OSError:
        yield False
        return
    try:
        yield try_descriptor(descriptor)
    finally:
        os.close(descriptor)


def try_descriptor(descriptor: int) -> bool:
    """Try to take the exclusive lock of an open file or directory, until it is closed; return whether it was free.

    Raises:
        OSError: the file system has no locks.
    """
    return _try(descriptor, fcntl.LOCK_EX)


def lease(descriptor: int) -> None:
    """Mark an open file as in use until it is closed; has no effect on a file system without locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextlib.contextmanager
def hold_directory(path: Path) -> Iterator[None]:
    """Hold the lock of an existing directory, which programs that this thread starts inherit.

    Raises:
        OSError: the directory cannot be opened.
    """
    descriptor = _make_high(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _own.descriptors = (*held(), descriptor)
        yield
    finally:
        release(descriptor)


def _make_high(descriptor: int) -> int:
    """Return a descriptor of an open file with a number of two digits, and close another one.

    Programs inherit it, and some redirect to the lowest free descriptors in shells that know only one digit: mmdebstrap
    has dash run `cat >&10`.
    """
    if descriptor >= _LOWEST_INHERITED:
        return descriptor
    try:
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LOWEST_INHERITED)
    except OSError:  # no descriptor is left
        return descriptor
    os.close(descriptor)
    return high


def _remove_entry(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink()


def remove_stale_files(directory: Path, remove: Callable[[Path], None] = _remove_entry) -> None:
    """Remove temporary files and directories of processes that no longer run, if they are not locked."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            owner = entry.name.partition("-")[0]
            if not owner.isdigit() or processes.is_running(int(owner)):
                continue
            with contextlib.suppress(OSError), try_lock(Path(entry.path)) as free:
                if free:
                    remove(Path(entry.path))


def _acquire(path: str | Path, kind: int, timeout_s: float, progress: Progress) -> int:
    """Return the descriptor of the lock file at `path`, locked and not removed meanwhile."""
    while True:
        try:
            descriptor = files.open_shared(path, _FLAGS, files.PRIVATE)
        except OSError as error:
            raise files.cache_error(path, error) from error
        try:
            if not _lock(descriptor, kind, path):
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


def _wait_for(descriptor: int, kind: int, path: str | Path, timeout_s: float, progress: Progress) -> None:
    started_s = time.monotonic()
    reported, searched_s = "", -_SEARCH_S
    while not _lock(descriptor, kind, path):
        if time.monotonic() - searched_s >= _SEARCH_S:
            searched_s, holder = time.monotonic(), _find_holder(descriptor)
            if holder != reported:
                progress.phase("wait", holder=holder)
                reported = holder
        if time.monotonic() - started_s > timeout_s:
            raise CacheUnavailableError(
                f"waited {timeout_s:.0f} s for process {holder}, which holds {escape_text(str(path))}",
                hint=f"if process {holder} hangs, stop it and run again; FETCH_LOCK_TIMEOUT_S sets how long to wait",
            )
        progress.check()
        with released:
            time.sleep(_POLL_S)


def _find_holder(descriptor: int) -> str:
    """Return the process that took a lock; if it has ended, the oldest of those that inherited the lock from it."""
    recorded = os.pread(descriptor, _HOLDER_SIZE, 0).strip()
    if recorded.isdigit() and processes.is_running(int(recorded)):
        return recorded.decode("ascii")
    heirs = processes.find_lock_holders(descriptor)
    if heirs:
        return escape_text(str(min(heirs, key=lambda one: (one.started, one.id))))
    return escape_text(recorded) or "unknown"


def _lock(descriptor: int, kind: int, path: str | Path) -> bool:
    try:
        return _try(descriptor, kind)
    except OSError as error:
        raise files.cache_error(path, error) from error
