"""Live display: a block with one line per active task and one line of totals, below permanent lines.

Between frames the cursor is at the top left of the block, visible. A frame erases from the cursor to the end of the
screen, writes the lines and moves the cursor back up. If something disturbs the block (a resize that rewraps it, output
of a child, a kill), the next frame cannot erase anything above it, and erasing the block leaves the terminal clean.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from tasks_lib.errors import escape_text
from tasks_lib.ui.events import Event
from tasks_lib.ui.lines import SummaryLine, summarize_errors, summarize_failures, summarize_totals
from tasks_lib.ui.output import Output, Renderer, escaped_lines
from tasks_lib.ui.run_state import IDLE_PHASES, RunState, TaskRun, host_of
from tasks_lib.units import format_duration, format_estimate, format_size

#: Size of a terminal that does not report its size. Source: POSIX, the size of a VT100.
_DEFAULT_SIZE: Final = os.terminal_size((80, 24))
_BAR: Final = 9
#: Seconds after which the remaining time of a run is estimated.
_MIN_ESTIMATE_S: Final = 1.0
_STYLES: Final = {"bad": "red", "good": "green", "warn": "yellow", "accent": "cyan", "dim": "dim", "strong": "bold"}
_PHASE_LABELS: Final = {
    "queue": "queued",
    "wait": "waiting",
    "connect": "connecting",
    "first-byte": "asking",
    "body": "fetching",
    "verify": "verifying",
    "repack": "repacking",
    "extract": "extracting",
    "place": "placing",
    "run": "running",
}


class LiveRenderer(Renderer):
    """Redraws a block of lines; thread-safe."""

    interval_s = 0.125  # eight frames a second: a display starts to look restless at ten

    def __init__(self, out: Output, state: RunState, *, colour: str) -> None:
        """Create a renderer; `colour` is "always" or "never"."""
        self._out, self._state = out, state
        self._console = Console(
            file=io.StringIO(),
            force_terminal=True,
            no_color=colour == "never",
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )
        self._marks = "━╌" if out.can_encode("━╌…") else "=."
        self._lock = threading.RLock()
        self._drawn = ""
        self._noisy: set[str] = set()  # tasks whose children write to the terminal
        self._streams: tuple[Any, Any] = (sys.stdout, sys.stderr)
        self._proxies: list[_TerminalProxy] = []

    def begin(self) -> None:
        """Redirect Python's output on the terminal to above the block; leave streams that lead elsewhere unchanged."""
        self._streams = (sys.stdout, sys.stderr)
        self._proxies = [_TerminalProxy(self._said, stream) for stream in self._streams if Output(stream).is_terminal]
        sys.stdout, sys.stderr = (
            next((proxy for proxy in self._proxies if proxy.real is stream), stream) for stream in self._streams
        )

    def on_event(self, event: Event) -> None:
        """Write warnings and skip reasons above the block; stop drawing while a child writes to the terminal."""
        name = escape_text(event.task)
        if event.name == "warn":
            self._above([SummaryLine(f"{name}: {escape_text(str(event.facts['message']))}", "warn")])
        elif event.name == "skip":
            self._above([SummaryLine(f"{name}: skipped: {escape_text(str(event.facts['reason']))}", "warn")])
        elif event.name == "start" and _owns_terminal(self._state.tasks.get(event.task)):
            with self._lock:
                self._noisy.add(event.task)
                self._erase()

    def ended(self, name: str, outcome: str, fail: Any, kept: str) -> None:
        """Write a failure above the block; the totals count successes."""
        self._noisy.discard(name)
        if outcome == "failed":
            lines = [f"{fail.get_name()} - taskid:{escape_text(name)}", *escaped_lines(f"{fail.get_msg()}\n{kept}")]
            self._above([SummaryLine(line, "bad") for line in lines])

    def beat(self, now: float) -> None:
        """Draw a frame."""
        with self._lock:
            if not self._noisy:
                self._draw(self._frame(now))

    def finish(self) -> None:
        """Erase the block and write the summary."""
        with self._lock:
            sys.stdout, sys.stderr = self._streams
            for proxy in self._proxies:
                proxy.finish()
            self._noisy.add("")  # no frame after this
            self._erase()
            lines = summarize_totals(self._state, time.monotonic())
            lines += [line for _, line in summarize_failures(self._state)]
            self._out.write("".join(map(self._rendered, [*lines, *summarize_errors(self._state)])))

    # --- the block ------------------------------------------------------------------------------

    def _above(self, lines: list[SummaryLine]) -> None:
        with self._lock:
            drawn, self._drawn = self._drawn, ""
            self._out.write(("\r\x1b[J" if drawn else "") + "".join(map(self._rendered, lines)))
            if drawn and not self._noisy:
                self._draw(drawn)

    def _said(self, text: str) -> None:
        """Show a line that Python code printed: keep its colours, remove cursor movements."""
        with self._lock:
            drawn, self._drawn = self._drawn, ""
            self._out.write(("\r\x1b[J" if drawn else "") + self._printed(Text.from_ansi(text), soft=None) + "\n")
            if drawn and not self._noisy:
                self._draw(drawn)

    def _erase(self) -> None:
        if self._drawn:
            self._out.write("\r\x1b[J")
        self._drawn = ""

    def _draw(self, frame: str) -> None:
        if frame == self._drawn:
            return
        height = frame.count("\n")
        up = f"\x1b[{height}A" if height else ""
        self._out.write(f"\r\x1b[J{frame}\r{up}")
        self._drawn = frame

    def _frame(self, now: float) -> str:
        width, height = self._size()
        active = self._state.active()
        shown = max(1, min(len(active), height - 3))
        rows = [self._row(run, now, width) for run in active[:shown]]
        if len(active) > shown:
            rows.append(Text(f"… and {len(active) - shown} more", "dim"))
        return "\n".join(self._printed(row, soft=width) for row in [*rows, self._totals(now)])

    def _size(self) -> os.terminal_size:
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._out.descriptor)
            if size.columns > 0 and size.lines > 0:
                return size
        return _DEFAULT_SIZE

    def _rendered(self, line: SummaryLine) -> str:
        return self._printed(Text(line.text, _STYLES.get(line.tone, "")), soft=None) + "\n"

    def _printed(self, text: Text, soft: int | None) -> str:
        """Return the text with its colours, cropped to `soft` - 1 columns unless `soft` is None."""
        if soft is not None:
            text.truncate(max(1, soft - 1), overflow="ellipsis")
        with self._console.capture() as capture:
            self._console.print(text, soft_wrap=True, end="")
        return capture.get()

    # --- lines of the block ---------------------------------------------------------------------

    def _row(self, run: TaskRun, now: float, width: int) -> Text:
        """Return the line of a task: the most important cells that fit into `width`."""
        row = Text()
        left = width - 1
        shown: list[tuple[tuple[int, int], str, str]] = []
        for place, text, style in sorted(self._cells(run, now, width), key=lambda cell: cell[0][1]):
            if len(text) + 1 > left and shown:
                break
            left -= len(text) + 1
            shown.append((place, text, style))
        for _, text, style in sorted(shown):
            row.append(f"{text} ", style)
        return row

    def _cells(self, run: TaskRun, now: float, width: int) -> list[tuple[tuple[int, int], str, str]]:
        """Return the cells of a task's line, each with its position from the left and its rank (0: most important)."""
        phase = run.phase
        columns = max(8, min(32, width // 4))
        doing = _PHASE_LABELS.get(phase.name, escape_text(phase.name)) if phase else "running"
        name = f"{_truncate(escape_text(run.name), columns):<{columns}}"
        cells = [((0, 0), name, "bold"), ((1, 1), f"{doing:<10}", "cyan")]
        if phase is None or not phase.total or phase.name in IDLE_PHASES:
            return [*cells, ((2, 2), format_duration(now - run.start_s), "dim")]
        done, rate = phase.size + phase.resumed, run.rate(now)
        share = min(1.0, done / phase.total)
        left = format_estimate((phase.total - done) / rate) if rate > 0 and share < 1 else ""
        full = round(share * _BAR)
        return [
            *cells,
            ((2, 7), self._marks[0] * full + self._marks[1] * (_BAR - full), "green"),
            ((3, 2), f"{share:>4.0%}", ""),
            ((4, 5), f"{format_size(done):>9} of {format_size(phase.total):<9}", ""),
            ((5, 3), f"{format_size(rate) + '/s':>11}", ""),
            ((6, 4), f"{left:>8}", "dim"),
            ((7, 6), _truncate(escape_text(host_of(phase.url)), 28) if phase.url else "", "dim"),
        ]

    def _totals(self, now: float) -> Text:
        counts, active = self._state.counts, self._state.active()
        failed = counts["failed"]
        done = sum(counts.values()) - failed
        row = Text().append(f"{done:,} done", "green")
        if failed:
            row.append(f", {failed:,} failed", "red")
        row.append(f", {len(active)} running, {max(0, self._state.waiting()):,} waiting")
        have, wanted = self._state.bytes()
        elapsed, rate = now - self._state.begun_s, self._state.rate(now)
        if wanted:
            row.append(f"   {format_size(have)} of {format_size(wanted)}")
        row.append(f"   {format_duration(elapsed)}", "dim")
        if rate > 0 and have < wanted and elapsed >= _MIN_ESTIMATE_S:
            row.append(f", {format_estimate((wanted - have) / rate)} left", "dim")
        return row


def _truncate(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[: columns - 1]}…"


def _owns_terminal(task: Any) -> bool:
    """Return whether a task runs a shell command whose output doit does not capture."""
    io_options = getattr(task, "io", None)
    if io_options is None or getattr(io_options, "capture", True):
        return False
    return any(type(action).__name__ == "CmdAction" for action in task.actions)


class _TerminalProxy(io.TextIOBase):
    """Replacement of stdout and stderr: whole lines go above the block, a child gets the real descriptor."""

    def __init__(self, say: Callable[[str], None], real: Any) -> None:
        super().__init__()
        self._say, self.real, self._held = say, real, ""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self.real.fileno())

    def write(self, text: str) -> int:
        *lines, self._held = (self._held + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)

    def finish(self) -> None:
        """Show an unfinished last line."""
        if self._held:
            self._say(self._held)
        self._held = ""
