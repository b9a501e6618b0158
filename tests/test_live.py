"""The live display on a pseudo-terminal, read as a person sees it: through a terminal emulator."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from tests.archives import Member, tar
from tests.origin import Answer, Origin, OriginRequest, serving
from tests.project import DODO, definition
from tests.test_reporter import DOIT, ENVIRON

BODY = tar([Member("big", b"x" * 400_000)])
DODO = DODO


class Terminal:
    """A pseudo-terminal with a screen; everything that was written is kept in `raw`."""

    def __init__(self, columns: int, lines: int) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.writes = 0
        self._master, self._slave = pty.openpty()
        self.stderr = self._slave
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    @contextlib.contextmanager
    def running(self, directory: Path, *words: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run doit with this terminal as its controlling one."""
        environment = ENVIRON | {"TERM": "xterm-256color", "FETCH_JOBS": "8"} | environ
        with subprocess.Popen(
            [*DOIT, *words],
            cwd=directory,
            env=environment,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self.stderr,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def read(self, seconds: float) -> None:
        """Read the output of some seconds."""
        if not select.select([self._master], [], [], seconds)[0]:
            return
        data = os.read(self._master, 1 << 16)
        self.raw += data
        self.writes += 1
        self._stream.feed(data)

    def until(self, seen: Callable[[str], object], seconds: float = 30) -> str:
        """Read until the screen shows it, and return the screen."""
        ends = time.monotonic() + seconds
        while not seen(self.text):
            assert time.monotonic() < ends, f"never seen; the screen is\n{self.text}"
            self.read(0.1)
        return self.text

    def drain(self, process: subprocess.Popen[bytes]) -> str:
        """Read until the process has ended, and return the screen."""
        while process.poll() is None:
            self.read(0.1)
        self.read(0.2)
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    @property
    def everything(self) -> str:
        """Return what scrolled away, and the screen."""
        gone = ["".join(row[column].data for column in sorted(row)).rstrip() for row in self.screen.history.top]
        return "\n".join([*gone, self.text])

    def close(self) -> None:
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    one = Terminal(120, 24)
    yield one
    one.close()


class Gate:
    """Answers that send half of the body, and the rest when they may."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def answer(self, connection: socket.socket, _request: OriginRequest) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY))
        half = len(BODY) // 2
        connection.sendall(BODY[:half])
        self.open.wait(30)
        connection.sendall(BODY[half:])


@pytest.fixture
def gate() -> Gate:
    return Gate()


def repository(directory: Path, answer: Answer, names: list[str]) -> contextlib.AbstractContextManager[Origin]:
    """Write a repository of equal fetches whose origin answers so."""
    serving_it = serving({f"/{name}.tar": answer for name in names})

    @contextlib.contextmanager
    def made() -> Iterator[Origin]:
        with serving_it as origin:
            (directory / "fetchdefs/fetch").mkdir(parents=True)
            text = "".join(definition(name, f"{origin.url}/{name}.tar", BODY) for name in names)
            (directory / "fetchdefs/fetch/a.yml").write_text(text)
            (directory / "dodo.py").write_text(DODO)
            yield origin

    return made()


def test_what_a_person_sees(tmp_path: Path, terminal: Terminal, gate: Gate) -> None:
    """Each active task has a line with bytes and source, the totals stand below; at the end only the summary is left."""
    with repository(tmp_path, gate.answer, ["one"]) as origin, terminal.running(tmp_path, "fetch") as process:
        shown = terminal.until(lambda text: "fetching" in text and "50%" in text)
        host = origin.url.removeprefix("http://")
        assert re.search(
            rf"^fetch:one +fetching +━+╌+ +50% 196.3 KiB of 392.5 KiB +[\d.]+ (?:[KM]i)?B/s .*{host}$", shown, re.M
        )
        assert re.search(r"^0 done, 1 running, 0 waiting   196.3 KiB of 392.5 KiB   \d+\.\d+ s", shown, re.M)
        gate.open.set()
        shown = terminal.drain(process)
        assert process.returncode == 0
        assert re.fullmatch(
            rf"1 fetched \(392.5 KiB\); [\d.]+ s\n  from {host}: 1 file, 392.5 KiB.*(\n  slowest.*)?", shown
        )
        terminal.screen.reset()
    with terminal.running(tmp_path, "fetch") as process:
        assert terminal.drain(process).startswith("nothing to do: 1 cached; ")


@pytest.mark.slow
def test_it_is_calm(tmp_path: Path, terminal: Terminal, gate: Gate) -> None:
    """Without news the display writes at most ten frames a second, each in one write."""
    with repository(tmp_path, gate.answer, ["one"]), terminal.running(tmp_path, "fetch"):
        terminal.until(lambda text: "fetching" in text)
        before, begun = terminal.raw.count(b"\x1b[J"), time.monotonic()
        while time.monotonic() - begun < 1.5:
            terminal.read(0.05)
        frames = terminal.raw.count(b"\x1b[J") - before
        assert 1 <= frames <= 10 * (time.monotonic() - begun)
        gate.open.set()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(100, 24), (40, 10), (20, 4), (8, 3)], ids=str)
def test_a_terminal_of_any_size(size: tuple[int, int], tmp_path: Path, gate: Gate) -> None:
    """Narrow and low terminals show less, and no line wraps."""
    terminal = Terminal(*size)
    names = [f"name-{number}" for number in range(6)]
    with repository(tmp_path, gate.answer, names), terminal.running(tmp_path, "fetch") as process:
        terminal.until(lambda text: "0 done"[: size[0] - 1] in text and "\nfetch:"[:6] in f"\n{text}")
        for _ in range(10):
            terminal.read(0.05)

        def whole(text: str) -> bool:  # what was read last may be a half of a frame
            return sum(row.startswith("0 done"[: size[0] - 2]) for row in text.splitlines()) == 1

        assert len(terminal.until(whole).splitlines()) <= size[1]
        assert not terminal.screen.history.top, "a frame is higher than the screen"
        gate.open.set()
        terminal.drain(process)
        assert process.returncode == 0
    terminal.close()


@pytest.mark.slow
def test_resizing(tmp_path: Path, terminal: Terminal, gate: Gate) -> None:
    """After the window is resized there is one block, and the text above it is unchanged."""
    with repository(tmp_path, gate.answer, ["one"]), terminal.running(tmp_path, "fetch") as process:
        terminal.until(lambda text: "fetching" in text)
        for columns, lines in ((50, 10), (120, 30), (60, 24)):
            os.killpg(process.pid, signal.SIGSTOP)  # a frame for the old size must arrive at the old size
            terminal.read(0.2)
            terminal.resize(columns, lines)
            os.killpg(process.pid, signal.SIGWINCH)
            os.killpg(process.pid, signal.SIGCONT)
            terminal.until(
                lambda text: text.count("fetch:one") == 1 and len(re.findall(r"^0 done, 1 running", text, re.M)) == 1
            )
        gate.open.set()
        assert terminal.drain(process).startswith("1 fetched")


def test_warnings_and_failures_stay_above(tmp_path: Path, terminal: Terminal, gate: Gate) -> None:
    """A failure is written above the block while other tasks run; the summary names its task."""
    with repository(tmp_path, gate.answer, ["one"]), terminal.running(tmp_path, "-c", "fetch") as process:
        pass
    path = tmp_path / "fetchdefs/fetch/a.yml"
    path.write_text("")
    with serving({"/one.tar": gate.answer}) as origin:
        other = definition("two", f"{origin.url}/none.tar", b"other")
        path.write_text(definition("one", f"{origin.url}/one.tar", BODY) + other)
        with terminal.running(tmp_path, "-c", "fetch") as process:
            shown = terminal.until(lambda text: "taskid:fetch:two" in text and "fetching" in text)
            assert shown.index("taskid:fetch:two") < shown.index("fetch:one")
            terminal.until(lambda text: "0 done, 1 failed, 1 running" in text)
            gate.open.set()
            shown = terminal.drain(process)
    assert shown.count("TaskFailed - taskid:fetch:two") == 1
    assert shown.rstrip().endswith("\nfailed: fetch:two")
    assert shown.count("no source provided") == 1
    assert "running" not in shown


def test_interrupt_leaves_a_clean_terminal(tmp_path: Path, terminal: Terminal, gate: Gate) -> None:
    """After Ctrl-C no line of the block is left, the cursor is visible, and no mode is changed."""
    with repository(tmp_path, gate.answer, ["one"]), terminal.running(tmp_path, "fetch") as process:
        terminal.until(lambda text: "fetching" in text)
        os.killpg(process.pid, signal.SIGINT)
        shown = terminal.drain(process)
        gate.open.set()
    assert "fetching" not in shown
    assert "0 done" not in shown
    assert not terminal.screen.cursor.hidden
    assert re.findall(rb"\x1b\[\?", terminal.raw) == []


NOISY = """
import sys, time
from doit_fetch import DOIT_CONFIG
DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["x"]}
def talk():
    for number in range(5):
        print(f"printed {number}")
        time.sleep(0.1)
    sys.stderr.write("\\x1b[2Jto stderr\\n")
    sys.stdout.write("unended")
def task_x():
    yield {"name": "slow", "actions": ["sleep 1"]}
    yield {"name": "talks", "actions": [talk], "verbosity": 2, "io": {"capture": False}}
    yield {"name": "pipes", "actions": ["for n in 1 2 3; do echo piped $n; sleep 0.1; done"], "verbosity": 2}
    yield {"name": "owns", "actions": ["for n in 1 2 3; do echo owned $n; sleep 0.1; done"], "io": {"capture": False}}
"""


@pytest.mark.slow
def test_output_of_others_does_not_break_it(tmp_path: Path, terminal: Terminal) -> None:
    """Every line that Python code, a captured and an uncaptured child write is whole on the screen, above the summary."""
    (tmp_path / "dodo.py").write_text(NOISY)
    with terminal.running(tmp_path, "-n", "4", "-P", "thread") as process:
        terminal.drain(process)
    lines = terminal.everything.splitlines()
    for wanted in [*(f"printed {number}" for number in range(5)), "to stderr"]:
        assert wanted in lines
    for number in (1, 2, 3):
        assert f"piped {number}" in lines
        assert f"owned {number}" in lines
    assert lines[-1].startswith("4 made; ") or lines[-2].startswith("4 made; ")


@pytest.mark.slow
def test_a_stream_that_leads_elsewhere_stays(tmp_path: Path, terminal: Terminal) -> None:
    """With stderr in a file, text written to it does not reach the terminal; an unterminated line of stdout does."""
    (tmp_path / "dodo.py").write_text(NOISY)
    with (tmp_path / "err").open("wb") as err:
        terminal.stderr = err.fileno()
        with terminal.running(tmp_path, "x:slow", "x:talks") as process:
            terminal.drain(process)
    assert (tmp_path / "err").read_text() == "\x1b[2Jto stderr\n"
    assert "to stderr" not in terminal.everything
    assert "\nunended\n" in terminal.everything


LINES = {"dumb": {"TERM": "dumb"}, "ci": {"CI": "true"}, "lines": {"FETCH_PROGRESS": "lines"}}


@pytest.mark.parametrize("case", LINES)
def test_where_no_live_display_is_wanted(case: str, tmp_path: Path, terminal: Terminal, gate: Gate) -> None:
    """A dumb terminal, a CI with a terminal, and `progress=lines` get lines."""
    gate.open.set()
    with repository(tmp_path, gate.answer, ["one"]), terminal.running(tmp_path, "fetch", **LINES[case]) as process:
        shown = terminal.drain(process)
    assert ".  fetch:one\nok fetch:one: 392.5 KiB from" in shown
    assert b"\x1b[J" not in terminal.raw
    assert (b"\x1b[" in terminal.raw) is (case != "dumb")


def test_no_colour(tmp_path: Path, terminal: Terminal, gate: Gate) -> None:
    """NO_COLOR keeps the live display and takes its colours away."""
    with repository(tmp_path, gate.answer, ["one"]), terminal.running(tmp_path, "fetch", NO_COLOR="1") as process:
        terminal.until(lambda text: "fetching" in text)
        gate.open.set()
        terminal.drain(process)
    assert re.findall(rb"\x1b\[[0-9;]*3[0-7]m", terminal.raw) == []


def test_rich_is_imported_only_for_a_terminal(tmp_path: Path) -> None:
    """A run in a pipe does not pay for the live display."""
    (tmp_path / "dodo.py").write_text(NOISY + "import atexit\natexit.register(lambda: print('rich' in sys.modules))\n")
    done = subprocess.run([*DOIT, "x:pipes"], cwd=tmp_path, env=ENVIRON, capture_output=True, check=True, text=True)
    assert done.stdout.endswith("False\n")
