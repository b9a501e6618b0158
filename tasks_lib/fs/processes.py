"""Running processes: which ones a command has left, and which ones hold a lock.

Linux reports them in /proc; elsewhere `ps` reports process groups. Zombies do not count as running.
Source: proc(5), /proc/pid/stat, environ, fd, fdinfo; Jenkins finds leftover processes by an environment variable too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tasks_lib.fs import system_calls
from tasks_lib.fs.system_calls import run_ps
from tasks_lib.named import NamedTuple

#: Exit statuses of a command that does not exist and of one that cannot be executed. Source: POSIX, `env`, EXIT STATUS.
_MISSING: Final = 127
_NOT_EXECUTABLE: Final = 126
_PROC: Final = "/proc"
#: The states of a process that has ended. Source: proc(5), /proc/pid/stat.
_ENDED: Final = frozenset("ZXx")
#: The index of the start time among the fields of a process after its session. Source: proc(5), fields 6 and 22.
_STARTED: Final = 15
#: Seconds between two checks whether processes have ended.
_LOOK_S: Final = 0.05


class RunningProcess(NamedTuple):
    """A running process; without /proc the session is its process group, and parent and start are unknown.

    `started` is in ticks of the system's clock.
    """

    id: int
    name: str
    session: int
    parent: int = 0
    started: int = 0

    def __str__(self) -> str:
        return f"{self.id} ({self.name})"


class Ended(NamedTuple):
    """The processes that were ended, and those that still run."""

    ended: tuple[RunningProcess, ...]
    left: tuple[RunningProcess, ...]


def is_running(process: int) -> bool:
    """Return whether a process is running; True if it cannot be determined."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return not system_calls.FEATURES.proc or _read_state(process) is not None


def find_lock_holders(descriptor: int) -> list[RunningProcess]:
    """Return the other processes that hold the flock of an open file, as far as the system reports them."""
    if not system_calls.FEATURES.proc:
        return []
    file = os.fstat(descriptor)
    try:
        return [one for one in _list_processes() if _holds_lock(one.id, file)]
    except OSError:  # too many open files
        return []


def find_command_processes(
    variable: str, session: int | None = None, locks: tuple[int, ...] = ()
) -> list[RunningProcess]:
    """Return the processes that a command of this or an earlier process started, as far as the system reports them.

    The result never contains this process, its session, its ancestors or the system's own processes.

    Args:
        variable: the beginning of `NAME=value` in the environment of the command, which processes that leave its
            session keep. A process that sees other directories (a container) may have the same one and does not count.
        session: the session that the command created; None if it is unknown.
        locks: open files whose locks the command inherited. A process without that variable that holds one of them
            belongs to the command if it started after this process, and is not a fork of it with the same environment.

    Raises:
        OSError: processes cannot be listed, for example because too many files are open.
    """
    if not system_calls.FEATURES.proc:
        return [one for one in _list_with_ps() if one.session == session and session not in (0, os.getpgrp())]
    own, environment = _read_state(os.getpid()), _read_environment("self")
    excluded = _ancestors() | {os.getpid()}
    files = [os.fstat(descriptor) for descriptor in locks]

    def belongs(one: RunningProcess) -> bool:
        if one.id in excluded or own is None or one.session in (0, own.session):
            return False
        if session is not None and one.session == session:
            return True
        other = _read_environment(str(one.id))
        if b"\0" + os.fsencode(variable) in b"\0" + other:
            return _sees_same_files(one.id)
        is_later = one.started > own.started and other != environment
        return is_later and any(_holds_lock(one.id, file) for file in files)

    return [one for one in _list_processes() if belongs(one)]


def _ancestors() -> set[int]:
    """Return the ids of the parent of this process, its parent, and so on."""
    found: set[int] = set()
    process = os.getppid()
    while process > 0 and process not in found:
        found.add(process)
        state = _read_state(process)
        process = state.parent if state is not None else 0
    return found | {1}


def end(find: Callable[[], list[RunningProcess]], *, settle_s: float, grace_s: float) -> Ended:
    """End the processes that `find` returns.

    Args:
        find: called again and again until it returns nothing.
        settle_s: seconds in which they may end by themselves; then they are not part of the result.
        grace_s: seconds between SIGTERM and SIGKILL, and to wait after SIGKILL.

    Raises:
        OSError: any that `find` raises.
    """
    left = found = _wait_until_gone(find, settle_s)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if left:
            for one in left:
                with contextlib.suppress(OSError):  # it has ended, or belongs to another user
                    os.kill(one.id, number)
            left = _wait_until_gone(find, grace_s)
    return Ended(tuple(one for one in found if one not in left), tuple(left))


def _wait_until_gone(find: Callable[[], list[RunningProcess]], timeout_s: float) -> list[RunningProcess]:
    """Return the processes that still run after `timeout_s` seconds."""
    ends_s = time.monotonic() + timeout_s
    while (left := find()) and time.monotonic() < ends_s:
        time.sleep(_LOOK_S)
    return left


def _list_processes() -> Iterator[RunningProcess]:
    """Yield all running processes except this one."""
    for name in os.listdir(_PROC):  # noqa: PTH208 - names only
        if name.isdigit() and int(name) != os.getpid() and (found := _read_state(int(name))):
            yield found


def _read_state(process: int) -> RunningProcess | None:
    """Return a process, None if it has ended."""
    try:
        text = Path(f"{_PROC}/{process}/stat").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    head, _, rest = text.rpartition(")")  # the name may contain parentheses
    state, parent, _group, session, *more = rest.split()
    if state in _ENDED:
        return None
    return RunningProcess(process, head.partition("(")[2], int(session), int(parent), int(more[_STARTED]))


def _read_environment(process: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"{_PROC}/{process}/environ").read_bytes()
    return b""


def _sees_same_files(process: int) -> bool:
    """Return whether a process has the root directory and the mounts of this process."""
    with contextlib.suppress(OSError):
        own, other = Path(f"{_PROC}/self"), Path(f"{_PROC}/{process}")
        same = (own / "ns/mnt").readlink() == (other / "ns/mnt").readlink()
        return same and (own / "root").samefile(other / "root")
    return False


def _holds_lock(process: int, file: os.stat_result) -> bool:
    """Return whether a process has the file open with a lock. Source: proc(5), the line `lock:` of fdinfo."""
    with contextlib.suppress(OSError):
        for descriptor in Path(f"{_PROC}/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), file):
                    info = Path(f"{_PROC}/{process}/fdinfo/{descriptor.name}").read_text("ascii", "replace")
                    if "FLOCK" in info:
                        return True
    return False


def _list_with_ps() -> Iterator[RunningProcess]:
    """Yield all running processes except this one, with their process group as session."""
    for line in run_ps("-A", "-o", "pid=", "-o", "pgid=", "-o", "stat=", "-o", "comm=")[1].splitlines():
        with contextlib.suppress(ValueError):
            process, group, state, name = line.split(None, 3)
            if state[0] not in _ENDED and int(process) != os.getpid():
                yield RunningProcess(int(process), os.path.basename(name), int(group))  # noqa: PTH119 - text only


def replace_process(command: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Replace this process by a command, with every signal at its default; return a status and a reason on failure."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):  # signals of the C library's threads
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(command[0], list(command), dict(environ))
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING, "command not found"
    except OSError as error:
        return _NOT_EXECUTABLE, error.strerror or str(error)
