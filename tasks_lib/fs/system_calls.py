"""System calls beyond POSIX, each with a fallback for other systems, for example macOS.

`FEATURES` lists what the system supports and is determined once. What a file system supports shows when a call fails.
No other module uses such calls: `mypy --platform darwin` in `./check` reports them. docs/platforms.md lists the tests.
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
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tasks_lib.named import NamedTuple

#: errno values for a file that cannot get another hard link. ENOTSUP and EOPNOTSUPP are one number on Linux and two on
#: macOS. Source: link(2); Darwin's sys/errno.h.
NO_LINK: Final = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
#: errno values of a system or file system that does not support a call. Source: open(2), O_TMPFILE; link(2); proc(5).
NOT_SUPPORTED: Final = (*NO_LINK, errno.EISDIR, errno.EINVAL, errno.ENOENT)
#: errno values of a clone that failed on a file system that supports clones. Source: ioctl_ficlone(2).
_CLONE_FAILED: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
#: Source: linux/fs.h, FICLONE = _IOW(0x94, 9, int).
_FICLONE: Final = 0x40049409
#: Seconds that `ps` may take.
_PS_TIMEOUT_S: Final = 10.0


class Features(NamedTuple):
    """Features of the system beyond POSIX; the defaults mean that it has none."""

    nameless_files: int = 0  # the flag O_TMPFILE
    path_descriptors: int = 0  # the flag O_PATH
    proc: str = ""  # the directory in procfs that describes this process and its descriptors
    clone: int = 0  # the request to ioctl(2) by which two files share their blocks
    syncfs: bool = False  # the C library has syncfs(2)
    create_memory_file: Callable[[str], int] | None = None  # memfd_create(2)


def _detect_features() -> Features:
    linux = sys.platform == "linux"
    return Features(
        nameless_files=getattr(os, "O_TMPFILE", 0),
        path_descriptors=getattr(os, "O_PATH", 0),
        proc="/proc/self" if linux and os.path.isdir("/proc/self/fd") else "",  # noqa: PTH112 - a stat, no Path
        clone=_FICLONE if linux else 0,
        syncfs=linux,
        create_memory_file=getattr(os, "memfd_create", None),
    )


#: The file with the ranges of users of a user namespace. Source: user_namespaces(7).
USER_ID_MAP: Final = "/proc/self/uid_map"
#: Replaced only by tests, to run the fallbacks.
FEATURES = _detect_features()


# --- files


def open_nameless(directory: Path) -> int | None:
    """Open a new file without a name, so that a kill leaves nothing behind; return None if that is not supported.

    It needs /proc, without which the file could not get a name later.

    Raises:
        OSError: the file system rejects the operation.
    """
    if not (FEATURES.nameless_files and FEATURES.proc):
        return None
    try:
        return os.open(directory, os.O_RDWR | os.O_CLOEXEC | FEATURES.nameless_files, 0o600)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        return None


@contextlib.contextmanager
def transient_file() -> Iterator[Path]:
    """Yield the path of an empty file of mode 0600 that vanishes with this process, even if it is killed.

    Other programs of the same user can open the path. Without memfd_create(2) and procfs, the file is in the directory
    for temporary files, where the next call removes what killed processes left.

    Raises:
        OSError: no file descriptor or no space is left.
    """
    descriptor = _open_memory_file()
    if descriptor is None:
        with _temporary_file() as path:
            yield path
        return
    try:
        os.fchmod(descriptor, 0o600)  # ssh ignores a key that others can read
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _open_memory_file() -> int | None:
    if FEATURES.create_memory_file is None or not FEATURES.proc:
        return None
    try:
        return FEATURES.create_memory_file("doit-fetch")
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:  # a sandbox may refuse the call
            raise
        return None


#: Prefix of temporary files, before the id of their process.
_TRANSIENT: Final = "doit-fetch-run."


@contextlib.contextmanager
def _temporary_file() -> Iterator[Path]:
    for left in Path(tempfile.gettempdir()).glob(f"{_TRANSIENT}*"):
        with contextlib.suppress(OSError, ValueError):
            try:
                os.kill(int(left.name.split(".")[1]), 0)
            except ProcessLookupError:
                left.unlink()
    with tempfile.NamedTemporaryFile(prefix=f"{_TRANSIENT}{os.getpid()}.") as file:
        yield Path(file.name)


def link_open_file(
    descriptor: int, new: str | bytes | Path, *, known_as: str | Path | None, directory: int | None = None
) -> None:
    """Link an open file to a new name, which must not exist.

    Args:
        descriptor: the open file.
        new: its new name.
        known_as: an existing name of the file. If the system cannot link a descriptor, this name is linked and the new
            name is compared with the open file afterwards.
        directory: the open directory that a relative `new` refers to.

    Raises:
        FileExistsError: another file has the new name.
        OSError: the file system rejects the operation; one of `NOT_SUPPORTED` if this file cannot be linked.
    """
    try:
        _link_by_descriptor(descriptor, new, directory)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED or known_as is None:
            raise
        if not is_same(descriptor, known_as):
            raise FileNotFoundError(errno.ENOENT, "was replaced while it was open", str(known_as)) from error
        with contextlib.suppress(FileExistsError):
            os.link(known_as, new, dst_dir_fd=directory, follow_symlinks=False)
        if not is_same(descriptor, new, directory):
            raise FileExistsError(errno.EEXIST, "another file has this name", os.fspath(new)) from error


def _link_by_descriptor(descriptor: int, new: str | bytes | Path, directory: int | None) -> None:
    if not FEATURES.proc:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), os.fspath(new))
    source = f"{FEATURES.proc}/fd/{descriptor}"
    try:
        # src_dir_fd makes Python call linkat, which can follow; it has no other effect, because the path is absolute
        os.link(source, new, src_dir_fd=descriptor, dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        # over NFS a reply may be lost, and the repeated request then finds the link that the first one created
        if not is_same(descriptor, new, directory):
            raise


def is_same(descriptor: int, path: str | bytes | Path, directory: int | None = None) -> bool:
    """Return whether `path` is a name of the open file."""
    try:
        named = os.stat(path, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(os.fstat(descriptor), named)


def clone(source: int, target: int) -> bool:
    """Clone an open file to another one, so that they share blocks; return False if that is not supported.

    Raises:
        OSError: no space, or a disk error.
    """
    if not FEATURES.clone:
        return False
    try:
        fcntl.ioctl(target, FEATURES.clone, source)
    except OSError as error:
        if error.errno in _CLONE_FAILED:
            raise
        return False
    return True


def make_accessible(path: str | Path, above: int | None = None) -> None:
    """Give the owner rwx permission on a directory, without following a symlink.

    Args:
        path: the directory.
        above: the open directory that a relative `path` refers to.

    Raises:
        OSError: it is not a directory, or the file system rejects the operation.
    """
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | (FEATURES.path_descriptors if FEATURES.proc else os.O_RDONLY), dir_fd=above)
    except PermissionError:
        _allow_by_name(path, above)
        return
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o700 != 0o700:
            # a descriptor of O_PATH cannot be given to fchmod. Source: open(2)
            os.chmod(f"{FEATURES.proc}/fd/{descriptor}" if FEATURES.proc else descriptor, mode | 0o700)  # noqa: PTH101
    finally:
        os.close(descriptor)


def _allow_by_name(path: str | Path, above: int | None) -> None:
    """Give the owner rwx permission on a directory that cannot be opened.

    If a symlink replaced it meanwhile, macOS changes the mode of the symlink.
    """
    status = os.stat(path, dir_fd=above, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    follow = os.chmod not in os.supports_follow_symlinks
    os.chmod(path, stat.S_IMODE(status.st_mode) | 0o700, dir_fd=above, follow_symlinks=follow)


def sync(descriptor: int) -> None:
    """Sync an open file or directory, so that it survives a power loss.

    Source: fsync(2) of macOS: fsync leaves the bytes in the cache of the drive, F_FULLFSYNC does not; not every file
    system supports F_FULLFSYNC.

    Raises:
        OSError: the file system rejects the operation.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
        except OSError as error:
            if error.errno not in (*NOT_SUPPORTED, errno.ENOTTY):
                raise
        else:
            return
    os.fsync(descriptor)


def sync_tree(directory: Path) -> None:
    """Sync a directory tree, so that it survives a power loss; use syncfs if the system has it.

    One call per file takes a hundred times as long.

    Source: syncfs(2): since Linux 5.8 it reports write-back errors.

    Raises:
        OSError: the file system rejects the operation.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if FEATURES.syncfs and _sync_file_system(descriptor):
            return
        for _, _, names, inner in os.fwalk(".", dir_fd=descriptor, topdown=False):
            for name in names:
                _sync_entry(name, inner)
            os.fsync(inner)
        sync(descriptor)  # last, because F_FULLFSYNC flushes the cache of the drive for all files
    finally:
        os.close(descriptor)


def _sync_file_system(descriptor: int) -> bool:
    """Sync the file system of an open directory; return False if that is not supported."""
    import ctypes  # slow to import, needed only after an extraction

    number = ctypes.get_errno() if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) else 0
    if number and number not in NOT_SUPPORTED:
        raise OSError(number, os.strerror(number))
    return not number


def _sync_entry(name: str, directory: int) -> None:
    """Sync one regular file; a symlink is synced with its directory."""
    if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- processes


def usable_cores() -> int:
    """Return the number of processors that this process may use, or that exist if the system does not report it."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def set_pipe_capacity(descriptor: int, size: int) -> None:
    """Set the capacity of a pipe to `size` bytes if possible, for speed only. Source: Linux pipe(7), F_SETPIPE_SZ."""
    request = getattr(fcntl, "F_SETPIPE_SZ", None)
    if request is not None:
        with contextlib.suppress(OSError):  # more than the limit for one user
            fcntl.fcntl(descriptor, request, size)


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group; do nothing if it has ended.

    Source: Darwin's killpg1 in bsd/kern/kern_sig.c: for a group that contains only zombies it returns EPERM, not ESRCH.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


@functools.cache
def boot_identity() -> str:
    """Return a string that changes when the machine restarts.

    It is the boot id, else the start time of process 1, else a random string of this process, so that comparisons with
    strings of earlier processes fail. Source: random(4), boot_id; ps(1), lstart.
    """
    if FEATURES.proc:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    return run_ps("-p", "1", "-o", "lstart=")[1] or os.urandom(16).hex()


def effective_user() -> int:
    """Return the id of the effective user, which programs inherit.

    fakeroot changes what libc says, but not procfs. Source: fakeroot(1); proc(5), /proc/pid/status, "Uid".
    """
    if FEATURES.proc:
        with contextlib.suppress(OSError, ValueError, IndexError):
            _, _, line = Path(FEATURES.proc, "status").read_text("utf-8", "replace").partition("\nUid:")
            return int(line.split(maxsplit=2)[1])
    return os.geteuid()


def child_processes() -> list[int]:
    """Return the ids of the running child processes, as far as the system reports them.

    Source: proc(5), /proc/pid/task/tid/children; POSIX ps.
    """
    children: list[int] = []
    if FEATURES.proc:
        for listed in Path(f"{FEATURES.proc}/task").glob("*/children"):
            with contextlib.suppress(OSError, ValueError):
                children += map(int, listed.read_text("ascii").split())
        return children
    own, text = run_ps("-A", "-o", "pid=", "-o", "ppid=")
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            child, parent = map(int, line.split())
            if parent == os.getpid() and child != own:
                children.append(child)
    return children


def run_ps(*words: str) -> tuple[int, str]:
    """Run `ps`; return its process id and its output, "" if it failed."""
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
