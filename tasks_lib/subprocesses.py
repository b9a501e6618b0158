"""Programs of the system: started without a shell, bounded in time and output, ended with all their children.

Each runs in a session of its own, with the environment that the caller states and nothing on its standard input
unless that is given. Whoever waits for one is cancelled within a tenth of a second.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from tasks_lib.errors import ToolError, escaped
from tasks_lib.fs.system_calls import signal_group, widen_pipe
from tasks_lib.progress import Progress

#: Seconds between two looks, and between asking a program to end and ending it.
_TICK_S: Final = 0.1
_GRACE_S: Final = 3.0
#: Bytes kept of what a program says on its standard error, and of its output when it is collected.
_MAX_ERRORS: Final = 16 << 10
_MAX_OUTPUT: Final = 64 << 20
_CHUNK: Final = 1 << 16
#: Bytes that wait between a streaming program and its reader. Source: Linux pipe(7), /proc/sys/fs/pipe-max-size.
_PIPE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Most seconds in total, and without a byte from the program."""

    total_s: float = 600.0
    silence_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a program ended: `status` is negative for a signal; `errors` is the end of its standard error."""

    status: int
    output: bytes
    errors: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What to run, where, and with which environment."""

    words: Sequence[str]
    environ: Mapping[str, str]
    directory: Path | None = None
    bounds: Timeouts = Timeouts()

    @property
    def name(self) -> str:
        """The program's own name."""
        return Path(self.words[0]).name


def _started(command: Invocation, **streams: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(command.words), env=dict(command.environ), cwd=command.directory, start_new_session=True, **streams
        )
    except OSError as error:
        missing = isinstance(error, FileNotFoundError) and error.filename == command.words[0]
        reason = "is not installed" if missing else f"cannot be started: {error.strerror or error}"
        raise ToolError(f"the program {escaped(command.name)} {reason}", hint=f"install {command.name}") from error


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole group of a program to end, then end it; returns when it is gone."""
    if process.poll() is None:
        signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    signal_group(process.pid, signal.SIGKILL)
    process.wait()


class _Watchdog:
    """The deadlines of one program."""

    def __init__(self, command: Invocation, progress: Progress) -> None:
        self._command, self._progress = command, progress
        self._begun = self._moved = time.monotonic()

    def moved(self) -> None:
        """Note that a byte came."""
        self._moved = time.monotonic()

    def look(self) -> None:
        """Return, or end the wait.

        Raises:
            CancelledError: the run was asked to stop.
            ToolError: a deadline passed.
        """
        self._progress.check()
        now, bounds = time.monotonic(), self._command.bounds
        if now - self._begun > bounds.total_s:
            raise ToolError(f"{self._command.name} did not end within {bounds.total_s:g} s")
        if now - self._moved > bounds.silence_s:
            raise ToolError(f"{self._command.name} said nothing for {bounds.silence_s:g} s")


def run(
    command: Invocation,
    progress: Progress,
    *,
    input: bytes = b"",
    told: Callable[[bytes], None] = lambda _: None,
    look: Callable[[], None] = lambda: None,
) -> Completed:
    """Run a program to its end and return how it ended, whatever its status.

    Args:
        command: what to run.
        progress: asked whether to go on.
        input: what it reads.
        told: given each piece of its standard error.
        look: called ten times a second; may raise to end the program.

    Raises:
        ToolError: it is missing, a deadline passed, or it writes without end.
        CancelledError: the run was asked to stop.
    """
    with tempfile.TemporaryFile() as given:
        given.write(input)
        given.seek(0)
        process = _started(command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        return _collected(process, command, _Watchdog(command, progress), told, look)
    finally:
        stop(process)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _collected(
    process: subprocess.Popen[bytes],
    command: Invocation,
    watch: _Watchdog,
    told: Callable[[bytes], None],
    look: Callable[[], None],
) -> Completed:
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)  # type: ignore[arg-type]  # PIPE was asked for
        selector.register(process.stderr, selectors.EVENT_READ, errors)  # type: ignore[arg-type]  # likewise
        while selector.get_map():
            for key, _ in selector.select(_TICK_S):
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                watch.moved()
                key.data.extend(chunk)
                if key.data is errors:
                    told(chunk)
                    del errors[:-_MAX_ERRORS]
                elif len(output) > _MAX_OUTPUT:
                    raise ToolError(f"{command.name} wrote more than {_MAX_OUTPUT} bytes")
            watch.look()
            look()
    while process.poll() is None:
        watch.look()
        time.sleep(_TICK_S / 10)
    return Completed(status=process.returncode, output=bytes(output), errors=errors.decode("utf-8", "backslashreplace"))


class OutputStream:
    """A running program whose output is read as it comes; made by `streaming`."""

    def __init__(
        self, process: subprocess.Popen[bytes], command: Invocation, errors: BinaryIO, watch: _Watchdog
    ) -> None:
        self._process, self._command, self._errors, self._watch = process, command, errors, watch
        if process.stdout is None:
            raise AssertionError("a stream reads the program's output")
        widen_pipe(process.stdout.fileno(), _PIPE)
        self.reader = io.BufferedReader(_Pipe(process.stdout.fileno(), watch), _PIPE)

    def send(self, text: bytes) -> None:
        """Write to the program's standard input, at most what a pipe holds before the answer is read.

        Raises:
            ToolError: the program is gone.
        """
        if self._process.stdin is None:
            raise AssertionError("the input of this program is a file")
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
        except OSError as error:
            raise self.failure("ended early") from error

    def status(self) -> int:
        """Return how the program ended, once its output was read to the end."""
        while self._process.poll() is None:
            self._watch.look()
            time.sleep(_TICK_S / 10)
        return self._process.returncode

    def failure(self, reason: str) -> ToolError:
        """Return the error that says what the program did and what it said last."""
        self._errors.seek(0)
        return ToolError(f"{self._command.name} {reason}: {last_line(self._errors.read(_MAX_ERRORS))}")


class _Pipe(io.RawIOBase):
    """Reads a pipe, looking at the deadlines while nothing comes."""

    def __init__(self, descriptor: int, watch: _Watchdog) -> None:
        super().__init__()
        self._descriptor, self._watch = descriptor, watch
        self._poll = select.poll()  # not select(2): that knows no descriptor above 1023
        self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there, waiting for at least one byte or the end."""
        while not self._poll.poll(_TICK_S * 1000):
            self._watch.look()
        self._watch.moved()
        return os.readv(self._descriptor, [buffer])


@contextlib.contextmanager
def streaming(command: Invocation, progress: Progress, *, input: BinaryIO | None = None) -> Iterator[OutputStream]:
    """Run a program beside the caller, who reads what it writes; it is ended when the caller leaves.

    Args:
        command: what to run; `bounds.total_s` counts until the caller leaves.
        progress: asked whether to go on.
        input: a file that it reads; without one, the caller sends.

    Raises:
        ToolError: it is missing.
    """
    with tempfile.TemporaryFile() as errors:
        process = _started(
            command, stdin=subprocess.PIPE if input is None else input, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            yield OutputStream(process, command, errors, _Watchdog(command, progress))
        finally:
            stop(process)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


def last_line(text: bytes | str) -> str:
    """Return the last line that says anything, fit for a message."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return escaped(lines[-1])[:300] if lines else "it said nothing"
