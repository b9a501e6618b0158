"""What every renderer has: its interface, and an output stream, on which write errors do not end the run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tasks_lib.errors import escape_lines
from tasks_lib.named import NamedTuple

if TYPE_CHECKING:
    from tasks_lib.ui.events import Event  # every command loads this module, but not that one


class Output:
    """Wrapper of a stream from doit (None if stdout is closed). After a write error, writing does nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._encoding = str(getattr(stream, "encoding", None) or "utf-8")

    @property
    def is_terminal(self) -> bool:
        """Whether the stream is a terminal."""
        try:
            return bool(self._stream is not None and self._stream.isatty())
        except (ValueError, AttributeError):
            return False

    @property
    def descriptor(self) -> int:
        """File descriptor of the stream, -1 if it has none."""
        try:
            return int(self._stream.fileno())
        except (OSError, ValueError, AttributeError):
            return -1

    def can_encode(self, text: str) -> bool:
        """Return whether the stream's encoding has all characters of `text`."""
        return text.encode(self._encoding, "ignore").decode(self._encoding) == text

    def write(self, text: str) -> None:
        """Write and flush; escape characters that the stream's encoding lacks."""
        if self._stream is None:
            return
        try:
            if not text.isascii():
                text = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._abandon()

    def _abandon(self) -> None:
        """Redirect the stream to /dev/null, for text still in its buffer. Source: Python's docs, "Note on SIGPIPE"."""
        descriptor, self._stream = self.descriptor, None
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


class Renderer:
    """Shows a run; called from any thread, after the `RunState` is updated. `interval_s` is between two beats."""

    interval_s: float

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


class OutputSettings(NamedTuple):
    """Settings and environment of a reporter.

    Attributes:
        progress: "auto", "live", "lines" or "quiet", from the setting.
        ci: "github", "gitlab", "other" or "".
        colour: "auto" (on a terminal), "always" or "never".
        terminal: the environment variable TERM.
        events: path of the event log, "" for none.
        record: path of the run record, None for none.
    """

    progress: str = "auto"
    ci: str = ""
    colour: str = "auto"
    terminal: str = ""
    events: str = ""
    record: Path | None = None

    @classmethod
    def parse(cls, environ: Mapping[str, str], *, progress: str, events: str, build: Path) -> Self:
        """Return the values for an environment and these settings.

        Source: no-color.org and force-color.org: any non-empty value counts; NO_COLOR takes precedence. GITHUB_ACTIONS
        and GITLAB_CI are "true" on their machines, CI is on nearly all others.
        """
        named = {"GITHUB_ACTIONS": "github", "GITLAB_CI": "gitlab", "CI": "other"}
        ci = next((host for name, host in named.items() if environ.get(name, "") not in ("", "0", "false")), "")
        colour = "never" if environ.get("NO_COLOR") else "always" if environ.get("FORCE_COLOR") else "auto"
        return cls(
            progress=progress,
            ci=ci,
            colour=colour,
            terminal=environ.get("TERM", ""),
            events=events,
            record=build / ".run.json",
        )


#: Select Graphic Rendition of each tone. Source: ECMA-48 section 8.3.117.
_TONES: Final = {"bad": "31", "good": "32", "warn": "33", "accent": "36", "dim": "2", "strong": "1"}


def painted(text: str, tone: str, colour: str) -> str:
    """Return `text` in the colour of a tone; `colour` is "never" or "always"."""
    return f"\x1b[{_TONES[tone]}m{text}\x1b[0m" if colour == "always" and tone else text


def escaped_lines(text: str) -> list[str]:
    """Return untrusted text as escaped lines, without empty lines."""
    return escape_lines(text).splitlines()
