"""Calls that Linux offers beyond POSIX, each with what replaces it elsewhere, for example on macOS.

`OFFERED` says what the system has; it is looked at once. What a single file system refuses is found out by asking it.
No other module uses such a call: `mypy --platform darwin` in `./check` finds one. What is tested: docs/platforms.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

#: Errors of a file system on which this file gets no (more) hard link. ENOTSUP and EOPNOTSUPP are one number on Linux
#: and two on macOS. Source: link(2); Darwin's sys/errno.h.
NO_LINK: Final = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
#: Errors of a system or file system that does not have a call. Source: open(2), O_TMPFILE; link(2); proc(5).
NOT_OFFERED: Final = (*NO_LINK, errno.EISDIR, errno.EINVAL, errno.ENOENT)
#: Errors of a file system that was cloned to in vain although it can clone. Source: ioctl_ficlone(2).
_CLONE_FAILED: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
#: Source: linux/fs.h, FICLONE = _IOW(0x94, 9, int).
_FICLONE: Final = 0x40049409
#: Seconds that `ps` may take.
_PS_TIMEOUT_S: Final = 10.0


class Offered(NamedTuple):
    """What the system has beyond POSIX; the defaults stand for a system that has nothing of it."""

    nameless_files: int = 0  # the flag O_TMPFILE
    path_descriptors: int = 0  # the flag O_PATH
    proc: str = ""  # the directory in which this process finds itself and its descriptors
    clone: int = 0  # the request to ioctl(2) by which two files share their blocks
    syncfs: bool = False  # the C library syncs one file system


def _offered() -> Offered:
    linux = sys.platform == "linux"
    return Offered(
        nameless_files=getattr(os, "O_TMPFILE", 0),
        path_descriptors=getattr(os, "O_PATH", 0),
        proc="/proc/self" if linux and os.path.isdir("/proc/self/fd") else "",  # noqa: PTH112 - a stat, no Path
        clone=_FICLONE if linux else 0,
        syncfs=linux,
    )


#: The tests replace it to run the fallbacks; nothing else does.
OFFERED = _offered()


# --- files


def open_nameless(directory: Path) -> int | None:
    """Open a new file that has no name yet, so that a kill leaves nothing; None where there are no such files.

    Without /proc it could not be given a name later.

    Raises:
        OSError: the file system refused.
    """
    if not (OFFERED.nameless_files and OFFERED.proc):
        return None
    try:
        return os.open(directory, os.O_RDWR | os.O_CLOEXEC | OFFERED.nameless_files, 0o600)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        return None


def link_open_file(
    descriptor: int, new: str | bytes | Path, *, known_as: Path | None, directory: int | None = None
) -> None:
    """Give an open file one more name, at which nothing may stand.

    Args:
        descriptor: the open file.
        new: its new name.
        known_as: a name that it has. It is linked where a link cannot be made from a descriptor, and the new name is
            compared with the open file afterwards.
        directory: the open directory that a relative `new` counts from.

    Raises:
        FileExistsError: something else stands at the new name.
        OSError: the file system refused; one of `NOT_OFFERED` where it has no links for this file.
    """
    try:
        _link_by_descriptor(descriptor, new, directory)
    except OSError as error:
        if error.errno not in NOT_OFFERED or known_as is None:
            raise
        if not is_same(descriptor, known_as):
            raise FileNotFoundError(errno.ENOENT, "was replaced while it was open", str(known_as)) from error
        with contextlib.suppress(FileExistsError):
            os.link(known_as, new, dst_dir_fd=directory, follow_symlinks=False)
        if not is_same(descriptor, new, directory):
            raise FileExistsError(errno.EEXIST, "another file has this name", os.fspath(new)) from error


def _link_by_descriptor(descriptor: int, new: str | bytes | Path, directory: int | None) -> None:
    if not OFFERED.proc:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), os.fspath(new))
    source = f"{OFFERED.proc}/fd/{descriptor}"
    try:
        # with a descriptor Python calls linkat, which can follow; the path is absolute, so that it means nothing else
        os.link(source, new, src_dir_fd=descriptor, dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        # over NFS an answer may be lost and the repeated request find its own work
        if not is_same(descriptor, new, directory):
            raise


def is_same(descriptor: int, path: str | bytes | Path, directory: int | None = None) -> bool:
    """Whether `path` is a name of the open file."""
    try:
        named = os.stat(path, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(os.fstat(descriptor), named)


def clone(source: int, target: int) -> bool:
    """Let two open files share their blocks until one of them is written; False where they cannot.

    Raises:
        OSError: no space, or a bad disk.
    """
    if not OFFERED.clone:
        return False
    try:
        fcntl.ioctl(target, OFFERED.clone, source)
    except OSError as error:
        if error.errno in _CLONE_FAILED:
            raise
        return False
    return True


def make_accessible(path: str | Path, above: int | None = None) -> None:
    """Let the owner read, write and enter a directory, whatever its mode is, following nothing.

    Args:
        path: the directory.
        above: the open directory that a relative `path` counts from.

    Raises:
        OSError: it is no directory, or the file system refused.
    """
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | (OFFERED.path_descriptors if OFFERED.proc else os.O_RDONLY), dir_fd=above)
    except PermissionError:
        _allow_by_name(path, above)
        return
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o700 != 0o700:
            # a descriptor of O_PATH cannot be given to fchmod. Source: open(2)
            os.chmod(f"{OFFERED.proc}/fd/{descriptor}" if OFFERED.proc else descriptor, mode | 0o700)  # noqa: PTH101
    finally:
        os.close(descriptor)


def _allow_by_name(path: str | Path, above: int | None) -> None:
    """Do it for a directory that cannot be opened; macOS changes the mode of a symlink, where one came meanwhile."""
    status = os.stat(path, dir_fd=above, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    follow = os.chmod not in os.supports_follow_symlinks
    os.chmod(path, stat.S_IMODE(status.st_mode) | 0o700, dir_fd=above, follow_symlinks=follow)


def sync(descriptor: int) -> None:
    """Let an open file or directory survive a power loss.

    Source: fsync(2) of macOS: it leaves the bytes in the cache of the drive, F_FULLFSYNC does not; not every file
    system has that.

    Raises:
        OSError: the file system refused.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
        except OSError as error:
            if error.errno not in (*NOT_OFFERED, errno.ENOTTY):
                raise
        else:
            return
    os.fsync(descriptor)


def sync_tree(directory: Path) -> None:
    """Let everything below a directory survive a power loss, by one call where the system has it.

    One call for each file takes a hundred times as long.

    Source: syncfs(2): since Linux 5.8 it reports errors of writing back.

    Raises:
        OSError: the file system refused.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if OFFERED.syncfs and _sync_file_system(descriptor):
            return
        for _, _, names, inner in os.fwalk(".", dir_fd=descriptor, topdown=False):
            for name in names:
                _sync_entry(name, inner)
            os.fsync(inner)
        sync(descriptor)  # after all: what empties the cache of the drive does so for all of them
    finally:
        os.close(descriptor)


def _sync_file_system(descriptor: int) -> bool:
    """Sync the file system of an open directory; False where the system does not do that."""
    import ctypes  # slow to import, and most runs unpack nothing

    number = ctypes.get_errno() if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) else 0
    if number and number not in NOT_OFFERED:
        raise OSError(number, os.strerror(number))
    return not number


def _sync_entry(name: str, directory: int) -> None:
    """Sync one file; a symlink is synced with its directory."""
    if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- processes


def usable_cores() -> int:
    """Return how many processors this process may use, or, where the system does not say, how many there are."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def widen_pipe(descriptor: int, size: int) -> None:
    """Let a pipe hold `size` bytes, where the system can: it is only faster. Source: Linux pipe(7), F_SETPIPE_SZ."""
    request = getattr(fcntl, "F_SETPIPE_SZ", None)
    if request is not None:
        with contextlib.suppress(OSError):  # more than the system allows one user
            fcntl.fcntl(descriptor, request, size)


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group, as far as it still runs.

    Source: Darwin's killpg1 in bsd/kern/kern_sig.c: of a group in which only zombies are left it says EPERM, not ESRCH.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


@functools.cache
def boot_identity() -> str:
    """Return a text that changes when the machine starts again.

    Without a boot id it is the start time of the first process. Without that either, each process has a text of its
    own, so that whoever compares it believes nothing of an earlier process. Source: random(4), boot_id; ps(1), lstart.
    """
    if OFFERED.proc:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    return _ps("-p", "1", "-o", "lstart=")[1] or os.urandom(16).hex()


def child_processes() -> list[int]:
    """Return the processes that this one has started and that still run, as far as the system says.

    Source: proc(5), /proc/pid/task/tid/children; POSIX ps.
    """
    found: list[int] = []
    if OFFERED.proc:
        for listed in Path(f"{OFFERED.proc}/task").glob("*/children"):
            with contextlib.suppress(OSError, ValueError):
                found += map(int, listed.read_text("ascii").split())
        return found
    own, text = _ps("-A", "-o", "pid=", "-o", "ppid=")
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            child, parent = map(int, line.split())
            if parent == os.getpid() and child != own:
                found.append(child)
    return found


def _ps(*words: str) -> tuple[int, str]:
    """Return the process id of a `ps` that has ended, and what it said: "" when it failed."""
    nowhere = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            ["ps", *words], env={"LC_ALL": "C", "TZ": "UTC"}, stdin=nowhere, stdout=subprocess.PIPE, stderr=nowhere
        )
    except OSError:
        return 0, ""
    try:
        output, _ = process.communicate(timeout=_PS_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return process.pid, output.decode("ascii", "replace").strip() if process.returncode == 0 else ""
