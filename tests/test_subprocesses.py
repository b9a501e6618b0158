"""Subprocesses: timeouts, cancellation, and ending them with all their children."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

from tasks_lib.errors import CancelledError, ToolError
from tasks_lib.fs.locks import hold_directory, locked
from tasks_lib.progress import Silent
from tasks_lib.subprocesses import Invocation, Timeouts, last_line, run, stream_output

ENVIRON = {"PATH": os.environ["PATH"]}


def shell(text: str, **bounds: float) -> Invocation:
    return Invocation(words=["sh", "-c", text], environ=ENVIRON, bounds=Timeouts(**bounds))


def test_how_it_ended() -> None:
    """The result has status, output and the end of the errors; the program sees its input and none of our environment."""
    printed: list[bytes] = []
    done = run(shell('cat; echo "$HOME" >&2; exit 3'), Silent(), input=b"given", on_errors=printed.append)
    assert (done.status, done.output, done.errors) == (3, b"given", "\n")
    assert b"".join(printed) == b"\n"
    assert run(shell("kill -9 $$"), Silent()).status == -9


def test_missing_program() -> None:
    """The error for a missing program says how to install it."""
    with pytest.raises(ToolError, match="the program nothing-of-that-name is not installed\ninstall nothing-of"):
        run(Invocation(words=["nothing-of-that-name"], environ=ENVIRON), Silent())


def test_inherited_locks(tmp_path: Path) -> None:
    """A program inherits the locks above it; shells that know only descriptors of one digit still have those."""
    with contextlib.ExitStack() as stack:
        for number in range(12):
            stack.enter_context(locked(tmp_path / str(number), timeout_s=1, progress=Silent()))
        with hold_directory(tmp_path):
            done = run(shell("ls /proc/self/fd"), Silent())
    found = [int(word) for word in done.output.split()]
    assert (min(found), len([one for one in found if one > 9]), max(one for one in found if one <= 9)) == (0, 13, 3)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (shell("while :; do echo x; sleep 0.05; done", total_s=0.3), "did not exit within 0.3 s"),
        (shell("sleep 60", silence_s=0.3), "produced no output for 0.3 s"),
        (shell("yes"), "wrote more than"),
    ],
)
def test_bounds(command: Invocation, said: str) -> None:
    """Time in total, silence and output are bounded."""
    with pytest.raises(ToolError, match=said):
        run(command, Silent())


class Stopping(Silent):
    def __init__(self) -> None:
        self.stop = threading.Event()

    def check(self) -> None:
        if self.stop.is_set():
            raise CancelledError("stopped")


def test_cancelled_with_its_children(tmp_path: Path) -> None:
    """Cancellation kills a program and its background processes."""
    progress = Stopping()
    pid = tmp_path / "pid"
    threading.Timer(0.3, progress.stop.set).start()
    with pytest.raises(CancelledError):
        run(shell(f"sleep 60 & echo $! > {pid}; wait"), progress)
    for _ in range(100):
        status = Path(f"/proc/{int(pid.read_text())}/stat")
        if not status.exists() or " Z " in status.read_text():
            return
        time.sleep(0.05)
    pytest.fail("a child process still runs")


def test_streaming() -> None:
    """A program can be queried repeatedly; one that exits early is reported with its last line of errors."""
    with stream_output(shell('while read line; do echo "<$line>"; done'), Silent()) as stream:
        for word in (b"one", b"two"):
            stream.send(word + b"\n")
            assert stream.reader.readline() == b"<%s>\n" % word
    with stream_output(shell("echo why >&2; exit 4"), Silent()) as stream:
        assert stream.reader.read() == b""
        assert stream.status() == 4
        assert str(stream.failure("gave up")) == "sh gave up: why"
    with (
        stream_output(shell("sleep 60", silence_s=0.2), Silent()) as stream,
        pytest.raises(ToolError, match="produced no output"),
    ):
        stream.reader.read(1)


def test_last_line() -> None:
    """The last line that is not empty, escaped."""
    assert last_line(b"a\rb\x1b\n\n") == "b\\x1b"
    assert last_line("") == "no output"
