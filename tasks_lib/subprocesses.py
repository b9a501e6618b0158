"""Subprocesses: run programs without a shell, limit their time and output, and end them with all their children.

Each program runs in its own session, with only the environment that the caller passes, and with an empty standard input
unless the caller passes one. It inherits the locks of the calling thread. Waiting for a program is cancelled within a
tenth of a second.
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
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Final, NoReturn

from tasks_lib.errors import ToolError, escape_text
from tasks_lib.fs.locks import held
from tasks_lib.fs.system_calls import set_pipe_capacity, signal_group
from tasks_lib.progress import Progress

#: Seconds between two checks of a program, and between SIGTERM and SIGKILL.
_TICK_S: Final = 0.1
_GRACE_S: Final = 3.0
#: Maximum bytes kept of a program's standard error, and of its output if that is collected.
_MAX_ERRORS: Final = 16 << 10
_MAX_OUTPUT: Final = 64 << 20
_CHUNK: Final = 1 << 16
#: Bytes that the pipe of a streaming program holds. Source: Linux pipe(7), /proc/sys/fs/pipe-max-size.
_PIPE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Maximum seconds in total, and without output from the program."""

    total_s: float = 600.0
    silence_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The result of a program: `status` is negative for a signal; `errors` is the end of its standard error."""

    status: int
    output: bytes
    errors: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """A program to run: its arguments, directory, environment and timeouts."""

    words: Sequence[str]
    environ: Mapping[str, str]
    directory: Path | None = None
    bounds: Timeouts = Timeouts()

    @property
    def name(self) -> str:
        """The name of the program without its directory."""
        return Path(self.words[0]).name


def _start(command: Invocation, **streams: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(command.words),
            env=dict(command.environ),
            cwd=command.directory,
            pass_fds=held(),
            start_new_session=True,
            **streams,
        )
    except OSError as error:
        missing = isinstance(error, FileNotFoundError) and error.filename == command.words[0]
        reason = "is not installed" if missing else f"cannot start: {error.strerror or error}"
        raise ToolError(f"the program {escape_text(command.name)} {reason}", hint=f"install {command.name}") from error


def stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate the process group of a program, kill it after a grace period, and wait for the program to exit."""
    if process.poll() is None:
        signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    signal_group(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Raise SystemExit in the main thread on a signal that would end this process, but not the program it waits for.

    Ctrl-C is a KeyboardInterrupt already; a run of doit has handlers of its own.
    """
    handled: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        for one in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(one) is signal.SIG_DFL:
                signal.signal(one, _raise_exit)
                handled.append(one)
    try:
        yield
    finally:
        for one in handled:
            signal.signal(one, signal.SIG_DFL)


def _raise_exit(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


class _Watchdog:
    """The timeouts of one program."""

    def __init__(self, command: Invocation, progress: Progress) -> None:
        self._command, self._progress = command, progress
        self._begun = self._moved = time.monotonic()

    def moved(self) -> None:
        """Record that output arrived."""
        self._moved = time.monotonic()

    def look(self) -> None:
        """Check for cancellation and timeouts.

        Raises:
            CancelledError: the run is cancelled.
            ToolError: a timeout expired.
        """
        self._progress.check()
        now, bounds = time.monotonic(), self._command.bounds
        if now - self._begun > bounds.total_s:
            raise ToolError(f"{self._command.name} did not exit within {bounds.total_s:g} s")
        if now - self._moved > bounds.silence_s:
            raise ToolError(f"{self._command.name} produced no output for {bounds.silence_s:g} s")


def run(
    command: Invocation,
    progress: Progress,
    *,
    input: bytes = b"",
    on_errors: Callable[[bytes], None] = lambda _: None,
    look: Callable[[], None] = lambda: None,
) -> Completed:
    """Run a program until it exits and return its result, whatever its status.

    Args:
        command: the program to run.
        progress: checked for cancellation.
        input: the standard input of the program.
        on_errors: receives each chunk of its standard error.
        look: called ten times a second; may raise to end the program.

    Raises:
        ToolError: the program is missing, a timeout expired, or it writes too much output.
        CancelledError: the run is cancelled.
    """
    with _exit_on_signals():
        with tempfile.TemporaryFile() as stdin:
            stdin.write(input)
            stdin.seek(0)
            process = _start(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            return _collect(process, command, _Watchdog(command, progress), on_errors, look)
        finally:
            stop(process)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def _collect(
    process: subprocess.Popen[bytes],
    command: Invocation,
    watch: _Watchdog,
    on_errors: Callable[[bytes], None],
    look: Callable[[], None],
) -> Completed:
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)  # type: ignore[arg-type]  # stdout is PIPE
        selector.register(process.stderr, selectors.EVENT_READ, errors)  # type: ignore[arg-type]  # stderr is PIPE
        while selector.get_map():
            for key, _ in selector.select(_TICK_S):
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                watch.moved()
                key.data.extend(chunk)
                if key.data is errors:
                    on_errors(chunk)
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
    """A running program whose output is read as it arrives; created by `stream_output`."""

    def __init__(
        self, process: subprocess.Popen[bytes], command: Invocation, errors: BinaryIO, watch: _Watchdog
    ) -> None:
        self._process, self._command, self._errors, self._watch = process, command, errors, watch
        if process.stdout is None:
            raise AssertionError("the output of a streaming program is a pipe")
        set_pipe_capacity(process.stdout.fileno(), _PIPE)
        self.reader = io.BufferedReader(_Pipe(process.stdout.fileno(), watch), _PIPE)

    def send(self, text: bytes) -> None:
        """Write to the program's standard input. Write no more than a pipe holds before reading the answer.

        Raises:
            ToolError: the program exited.
        """
        if self._process.stdin is None:
            raise AssertionError("the input of this program is a file")
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
        except OSError as error:
            raise self.failure("exited early") from error

    def status(self) -> int:
        """Wait for the program and return its exit status; call this after reading all output."""
        while self._process.poll() is None:
            self._watch.look()
            time.sleep(_TICK_S / 10)
        return self._process.returncode

    def failure(self, reason: str) -> ToolError:
        """Return an error with the reason and the last line of the program's standard error."""
        self._errors.seek(0)
        return ToolError(f"{self._command.name} {reason}: {last_line(self._errors.read(_MAX_ERRORS))}")


class _Pipe(io.RawIOBase):
    """A reader of a pipe that checks the timeouts while no data arrives."""

    def __init__(self, descriptor: int, watch: _Watchdog) -> None:
        super().__init__()
        self._descriptor, self._watch = descriptor, watch
        self._poll = select.poll()  # select(2) supports only descriptors below 1024
        self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read available bytes; wait for at least one byte or the end of the stream."""
        while not self._poll.poll(_TICK_S * 1000):
            self._watch.look()
        self._watch.moved()
        return os.readv(self._descriptor, [buffer])


@contextlib.contextmanager
def stream_output(command: Invocation, progress: Progress, *, input: BinaryIO | None = None) -> Iterator[OutputStream]:
    """Run a program while the caller reads its output; stop it when the context exits.

    Args:
        command: the program to run; `bounds.total_s` counts until the context exits.
        progress: checked for cancellation.
        input: a file as its standard input; None to write to it with `OutputStream.send`.

    Raises:
        ToolError: the program is missing.
    """
    with tempfile.TemporaryFile() as errors:
        process = _start(
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
    """Return the last non-blank line, escaped and shortened for a message."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return escape_text(lines[-1])[:300] if lines else "no output"
