"""One attempt to run the command of a toolchain: its directory, its input files and its processes.

Each attempt has a directory of its own, so that what a killed run left running never writes into a later one:

    DIRECTORY/fetches-1, artifacts-1          the command runs in `fetches-1` and writes its output to `artifacts-1`
    DIRECTORY/attempt-1/fetches, artifacts    the same in a Taskgraph tree, whose commands run in `attempt-1`
    DIRECTORY/attempt-1/vcs                   a symlink to the checkout of the tree
    DIRECTORY/fetches, artifacts              symlinks to those of the last attempt

The number stays the same from build to build, because outputs may contain the path; after an attempt that was killed it
increases. The command inherits the locks of its build, so the next run waits for it even if this process is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tasks_lib.errors import CacheUnavailableError, CancelledError, ToolError, escape_text
from tasks_lib.fs import processes
from tasks_lib.fs.directories import remove_tree
from tasks_lib.fs.fingerprint import Fingerprint, settled_fingerprint
from tasks_lib.fs.locks import held, try_lock
from tasks_lib.fs.system_calls import signal_group
from tasks_lib.layout import is_gecko
from tasks_lib.progress import Progress
from tasks_lib.steps.builds import InputFile, ToolchainBuild
from tasks_lib.tree.stale_entries import take_directory

#: Seconds between SIGTERM and SIGKILL, and between two checks whether the command ended.
_GRACE_S: Final = 0.8
_LOOK_S: Final = 0.05
#: Seconds in which processes that a command started may end after it, as at the end of a pipe.
_SETTLE_S: Final = 1.0
#: Most processes that a message names.
_MOST_NAMED: Final = 5
_NAME: Final = "attempt-"
#: The file that exists in the directory of an attempt as long as a process of its command may run.
_RUNNING: Final = ".running"


class Attempt(NamedTuple):
    """The directory of one attempt, and the toolchain that it builds."""

    preparation: ToolchainBuild
    directory: Path

    @property
    def fetches(self) -> Path:
        """The directory of the fetches."""
        return _part(self.directory, "fetches", self.checkout)

    @property
    def checkout(self) -> Path | None:
        """The link to the checkout of a Taskgraph tree, None for other definitions."""
        return self.directory / "vcs" if self.preparation.toolchain.root else None

    @property
    def work(self) -> Path:
        """The directory in which the command runs. Source: taskgraph `transforms/run/toolchain.py`, `cwd`."""
        return self.directory if self.checkout else self.fetches

    @property
    def variables(self) -> dict[str, str]:
        """The variables that name these directories. Source: taskgraph `transforms/run`, `run-task`; Gecko's."""
        toolchain, checkout = self.preparation.toolchain, self.checkout
        variables = {"MOZ_FETCHES_DIR": str(self.fetches.absolute()), "UPLOAD_DIR": str(self.uploads.absolute())}
        if checkout is None:
            return variables
        variables |= {"TASK_WORKDIR": str(self.directory.absolute()), "VCS_PATH": str(checkout.absolute())}
        if is_gecko(toolchain.root, toolchain.file):
            variables["GECKO_PATH"] = variables["VCS_PATH"]
        return variables | ({"TOOLCHAIN_ARTIFACT": toolchain.index.artifact} if toolchain.index else {})

    @property
    def uploads(self) -> Path:
        """The directory for the output of the command."""
        return _part(self.directory, "artifacts", self.checkout)

    @property
    def _running(self) -> Path:
        return self.directory / _RUNNING

    def execute(self, command: Sequence[str], environ: Mapping[str, str], progress: Progress) -> int:
        """Run the command in a session of its own with its output in the log; return its exit status.

        Processes that the command leaves are ended, and named in a warning.

        Raises:
            ToolError: the command cannot be executed, or an input file changed before or while it ran.
            CacheUnavailableError: the log cannot be written.
            CancelledError: the run is cancelled; the command and all its processes have ended.
        """
        with _unchanged(self.preparation):
            process = self._start(command, environ)
            try:
                _wait(process, progress)
            except CancelledError:
                _stop(process)
                self._end_left(process.pid, 0)
                raise
            ended, left = self._end_left(process.pid, _SETTLE_S)
        name = self.preparation.toolchain.name
        if ended:
            progress.warn(f"ended processes that the command of {name} left: {_format(ended)}")
        if left:
            progress.warn(f"cannot end processes that the command of {name} left: {_format(left)}")
        return process.returncode

    def _start(self, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        log = self.preparation.log
        self._running.touch()
        try:
            log.unlink(missing_ok=True)  # an earlier attempt may still write to it
            with log.open("wb") as output:
                return subprocess.Popen(
                    command,
                    cwd=self.work,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=held(),
                    start_new_session=True,
                )
        except OSError as error:
            self._running.unlink()
            if error.filename == str(log):
                raise CacheUnavailableError(
                    f"cannot write {log}: {error.strerror}", hint="check its permissions and the free space"
                ) from error
            raise ToolError(
                f"toolchain {self.preparation.toolchain.name}: cannot execute {escape_text(command[0])}:"
                f" {error.strerror}",
                hint="check that the file exists and is executable",
            ) from error

    def _end_left(self, session: int, settle_s: float) -> processes.Ended:
        """End the processes that the command left; without any, the directory can be used again."""
        result = _end_processes(self.preparation, session, settle_s)
        if not result.left:
            self._running.unlink(missing_ok=True)
        return result


def begin_attempt(preparation: ToolchainBuild, lock_timeout_s: float, progress: Progress) -> Attempt:
    """Create the directory of an attempt, move the fetches into it, and remove the earlier ones.

    The caller holds the lock of the toolchain's directory: no process of an earlier attempt holds it any more.

    Raises:
        OSError, TreeError: a file system operation failed.
        CacheUnavailableError, CancelledError: as `deliver`.
    """
    ended = _end_processes(preparation, None, 0).ended
    if ended:
        name = preparation.toolchain.name
        progress.warn(f"ended processes that an interrupted run of {name} left: {_format(ended)}")
    earlier = _list_attempts(preparation.directory)
    newest = max(earlier, default=0)
    if not newest or (earlier[newest] / _RUNNING).exists():
        newest += 1
    attempt = Attempt(preparation, preparation.directory / f"{_NAME}{newest}")
    if newest in earlier:
        _remove_attempt(earlier.pop(newest))
    attempt.directory.mkdir(parents=True)
    attempt.uploads.mkdir()
    if attempt.checkout is not None:
        attempt.checkout.symlink_to(preparation.toolchain.root)
    for directory in earlier.values():  # after the new one exists, whose number is higher
        _remove_attempt(directory)
    take_directory(
        preparation.fetches,
        attempt.fetches,
        preparation.worked,
        preparation.records,
        {one.record.stem: one.key for one in preparation.deliveries},
        lock_timeout_s,
        progress,
    )
    _remove(preparation.uploads)
    preparation.uploads.symlink_to(attempt.uploads.relative_to(preparation.directory))
    return attempt


def remove_attempts(preparation: ToolchainBuild) -> None:
    """Remove the directories of all attempts, unless a command still runs.

    Raises:
        OSError: a file system operation failed.
    """
    with try_lock(preparation.lock) as free:
        if free:
            for directory in _list_attempts(preparation.directory).values():
                _remove_attempt(directory)
            _remove(preparation.uploads)


def _list_attempts(directory: Path) -> dict[int, Path]:
    """Return the directories of attempts by number."""
    named = {path.name.removeprefix(_NAME): path for path in directory.glob(f"{_NAME}*")}
    return {int(number): path for number, path in named.items() if number.isdecimal()}


def _part(attempt: Path, name: str, checkout: Path | None) -> Path:
    """Return the directory `name` of an attempt: in a Taskgraph tree below it, else beside it, with its number.

    Beside it, relative paths to files of the project are the same as from the symlink `name`.
    """
    return attempt / name if checkout is not None else attempt.with_name(attempt.name.replace(_NAME, f"{name}-"))


def _remove_attempt(directory: Path) -> None:
    for path in (_part(directory, "fetches", None), _part(directory, "artifacts", None), directory):
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a directory tree, or a symlink or file."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        remove_tree(path)


# --- input files


@contextlib.contextmanager
def _unchanged(preparation: ToolchainBuild) -> Iterator[None]:
    """Check before and after a command that its script and resources are the files that its key covers.

    Raises:
        ToolError: one of them has another content than when the definitions were loaded, or changed since.
    """
    name = preparation.toolchain.name
    before = {one.path: _measure(name, one) for one in preparation.inputs}
    yield
    for one in preparation.inputs:
        with contextlib.suppress(OSError):
            if Fingerprint.of(Path(one.path).stat()) == before[one.path]:
                continue
        raise _changed(name, one)


def _measure(name: str, one: InputFile) -> Fingerprint:
    """Return the fingerprint of an input file that has the expected content."""
    try:
        with Path(one.path).open("rb") as file:
            fingerprint = settled_fingerprint(file.fileno())
            actual = hashlib.file_digest(file, "sha256").hexdigest()
            unchanged = Fingerprint.of(os.fstat(file.fileno())) == fingerprint
    except OSError as error:
        raise ToolError(
            f"toolchain {name}: cannot read {escape_text(one.text)}: {error.strerror}",
            hint="check that the file exists and is readable",
        ) from error
    if actual != one.digest or not unchanged:
        raise _changed(name, one)
    return fingerprint


def _changed(name: str, one: InputFile) -> ToolError:
    return ToolError(
        f"toolchain {name}: {escape_text(one.text)} changed while doit ran, so the output is not kept",
        hint="run doit again",
    )


# --- processes


def _wait(process: subprocess.Popen[bytes], progress: Progress) -> None:
    while process.poll() is None:
        progress.check()
        time.sleep(_LOOK_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate the whole process group; kill it after a grace period."""
    signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _end_processes(preparation: ToolchainBuild, session: int | None, settle_s: float) -> processes.Ended:
    """End the processes of the commands that ran in the toolchain's directory, and of a session."""
    variable = f"UPLOAD_DIR={preparation.directory.absolute()}/a"  # attempt-N or artifacts-N
    find = partial(processes.find_command_processes, variable, session, held())
    return processes.end(find, settle_s=settle_s, grace_s=_GRACE_S)


def _format(found: Sequence[processes.RunningProcess]) -> str:
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return ", ".join(escape_text(str(one)) for one in found[:_MOST_NAMED]) + more
