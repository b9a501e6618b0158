"""Interface of renderers, and the choice of one for the output stream."""

from __future__ import annotations

from typing import Any, Final, Protocol

from tasks_lib.ui.events import Event
from tasks_lib.ui.lines import LinesRenderer
from tasks_lib.ui.output import Output, TerminalInfo
from tasks_lib.ui.run_state import RunState

#: Terminals that cannot move their cursor.
_DUMB: Final = frozenset({"", "dumb", "unknown"})


class Renderer(Protocol):
    """Shows a run; called from any thread, after the `RunState` is updated."""

    @property
    def interval_s(self) -> float:
        """Seconds between two calls of `beat`."""

    def begin(self) -> None:
        """Start the display: doit has loaded its tasks."""

    def on_event(self, event: Event) -> None:
        """Show an event of a task."""

    def ended(self, name: str, outcome: str, fail: Any, kept: str) -> None:
        """Show that a task ended; `fail` is doit's failure or None, `kept` is output that was not shown yet."""

    def passed(self, name: str, outcome: str) -> None:
        """Show that a task did not run: it is up to date, ignored, or cannot run."""

    def beat(self, now: float) -> None:
        """Update the display at a time (monotonic seconds)."""

    def finish(self) -> None:
        """End the display: the run is over, for whatever reason."""


def create_renderer(kind: str, out: Output, ledger: RunState, surroundings: TerminalInfo) -> Renderer:
    """Return a renderer; `kind` is "auto", "live", "lines" or "quiet"."""
    colour = surroundings.colour
    if colour == "auto":
        colour = "always" if out.is_terminal and surroundings.terminal not in _DUMB else "never"
    can = out.is_terminal and surroundings.terminal not in _DUMB
    if can and (kind == "live" or (kind == "auto" and not surroundings.ci)):
        from tasks_lib.ui.live import LiveRenderer  # rich is slow to import, needed only on a terminal

        return LiveRenderer(out, ledger, colour=colour)
    chatter = "quiet" if kind == "quiet" else "all"
    return LinesRenderer(out, ledger, ci=surroundings.ci, colour=colour, chatter=chatter)
