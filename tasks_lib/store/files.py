"""Files of the cache: opened without following anything, named only when complete, measured once.

Internal to the store. A `Stamp` (device, inode, size, mtime, ctime) stands for "these are the bytes that were
measured": whatever changes a file's content changes its ctime, which no ordinary program can set back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from tasks_lib.errors import StoreUnavailableError, escaped
from tasks_lib.progress import Progress

#: Bytes per read while hashing: large enough that hashlib works without the interpreter lock.
CHUNK: Final = 1 << 20
#: Seconds between two looks at a lock that another process holds.
_LOCK_POLL_S: Final = 0.1


class Stamp(NamedTuple):
    """What identifies an unchanged file."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of a file's status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Memo:
    """Which stamps were measured to have which sha256: an append-only text file, read once."""

    #: Lines after which the file is begun anew; a line is about 130 bytes.
    MAX_LINES: Final = 500_000

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[Stamp, str] | None = None

    def _loaded(self) -> dict[Stamp, str]:
        if self._known is None:
            self._known = {}
            with contextlib.suppress(OSError, ValueError), self._path.open(encoding="ascii") as lines:
                for line in lines:
                    words = line.split()
                    if len(words) == 6 and line.endswith("\n"):
                        self._known[Stamp(*map(int, words[1:]))] = words[0]
        return self._known

    def get(self, stamp: Stamp) -> str:
        """Return the hex sha256 that was measured, "" when this stamp is not known."""
        return self._loaded().get(stamp, "")

    def put(self, stamp: Stamp, hex_digest: str) -> None:
        """Remember a measurement; a cache that cannot be written just forgets."""
        known = self._loaded()
        if known.get(stamp) == hex_digest:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        if len(known) >= self.MAX_LINES:
            known.clear()
            flags |= os.O_TRUNC
        known[stamp] = hex_digest
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, flags | os.O_CLOEXEC, 0o644)
            try:
                os.write(descriptor, f"{hex_digest} {' '.join(map(str, stamp))}\n".encode())
            finally:
                os.close(descriptor)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, never through a symlink and never blocking on a FIFO.

    Raises:
        OSError: missing, or anything but a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def sha256_of(file: BinaryIO, progress: Progress | None = None) -> str:
    """Return the hex sha256 of `file` from its start, leaving it at its start."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        if progress is not None:
            progress.check()
    file.seek(0)
    return digest.hexdigest()


def sync_directory(path: Path) -> None:
    """Make a rename in `path` last through a power loss. Source: fsync(2), NOTES on directories."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str, temporary: Path) -> None:
    """Write `text` to `path` in one step: a reader sees the old text or the new one."""
    with temporary.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float, progress: Progress) -> Iterator[None]:
    """Hold the lock at `path`; the kernel frees it when this process ends, however it ends.

    Raises:
        StoreUnavailableError: another process held it for `timeout_s` seconds, or it cannot be made.
        CancelledError: the run was asked to stop while waiting.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unusable(path, error) from error
    try:
        _wait_for(descriptor, path, timeout_s, progress)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, path: Path, timeout_s: float, progress: Progress) -> None:
    begun = time.monotonic()
    told = ""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = escaped(os.pread(descriptor, 20, 0)) or "unknown"
            if holder != told:
                progress.phase("wait", holder=holder)
                told = holder
            if time.monotonic() - begun > timeout_s:
                raise StoreUnavailableError(
                    f"waited {timeout_s:.0f} s for process {holder}, which holds {path}",
                    hint=f"look at process {holder}; when it hangs, stop it and run again",
                ) from None
            progress.check()
            time.sleep(_LOCK_POLL_S)
        else:
            return


def unusable(path: Path, error: OSError) -> StoreUnavailableError:
    """Return the error for a cache path that the system refuses."""
    return StoreUnavailableError(
        f"the cache cannot be used: {escaped(str(path))}: {error.strerror or error}",
        hint="check space and permissions, or set another cache directory with FETCH_CACHE_DIR",
    )
