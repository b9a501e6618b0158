"""What shows a run, and which one fits where it is shown."""

from __future__ import annotations

from typing import Any, Final, Protocol

from tasks_lib.ui.events import Event
from tasks_lib.ui.lines import LinesRenderer
from tasks_lib.ui.output import Output, TerminalInfo
from tasks_lib.ui.run_state import RunState

#: Terminals that cannot move their cursor.
_DUMB: Final = frozenset({"", "dumb", "unknown"})


class Renderer(Protocol):
    """Shows what happens; called from any thread, after the ledger knows it."""

    @property
    def interval_s(self) -> float:
        """Seconds between two beats."""

    def begin(self) -> None:
        """Doit has loaded its tasks."""

    def on_event(self, event: Event) -> None:
        """A task says something."""

    def ended(self, name: str, outcome: str, fail: Any, kept: str) -> None:
        """A task ended; `fail` is doit's failure, or None, and `kept` what it wrote and nobody saw."""

    def passed(self, name: str, outcome: str) -> None:
        """A task did not have to run, or could not."""

    def beat(self, now: float) -> None:
        """Time passes (monotonic seconds)."""

    def finish(self) -> None:
        """The run is over, whatever the reason."""


def renderer_for(kind: str, out: Output, ledger: RunState, surroundings: TerminalInfo) -> Renderer:
    """Return the face: `kind` is "auto", "live", "lines" or "quiet"."""
    colour = surroundings.colour
    if colour == "auto":
        colour = "always" if out.is_terminal and surroundings.terminal not in _DUMB else "never"
    can = out.is_terminal and surroundings.terminal not in _DUMB
    if can and (kind == "live" or (kind == "auto" and not surroundings.ci)):
        from tasks_lib.ui.live import LiveRenderer  # rich is slow to import, and only needed here

        return LiveRenderer(out, ledger, colour=colour)
    chatter = "quiet" if kind == "quiet" else "all"
    return LinesRenderer(out, ledger, ci=surroundings.ci, colour=colour, chatter=chatter)
