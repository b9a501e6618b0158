"""The stream that a face writes to: flushed at each write, and never the reason why a run ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self


class Output:
    """A stream from doit, or None where stdout is closed. After its reader went away, writing does nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._encoding = str(getattr(stream, "encoding", None) or "utf-8")

    @property
    def is_terminal(self) -> bool:
        """Whether a person may look at it."""
        try:
            return bool(self._stream is not None and self._stream.isatty())
        except (ValueError, AttributeError):
            return False

    @property
    def descriptor(self) -> int:
        """The file descriptor, -1 when there is none."""
        try:
            return int(self._stream.fileno())
        except (OSError, ValueError, AttributeError):
            return -1

    def speaks(self, text: str) -> bool:
        """Return whether the stream's encoding has these characters."""
        return text.encode(self._encoding, "ignore").decode(self._encoding) == text

    def write(self, text: str) -> None:
        """Write and flush; what the stream's encoding lacks is escaped."""
        if self._stream is None:
            return
        try:
            self._stream.write(text.encode(self._encoding, "backslashreplace").decode(self._encoding))
            self._stream.flush()
        except (OSError, ValueError):
            self._abandon()

    def _abandon(self) -> None:
        """Let what Python still holds for a broken pipe go nowhere. Source: Python's docs, "Note on SIGPIPE"."""
        descriptor, self._stream = self.descriptor, None
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


class TerminalInfo(NamedTuple):
    """What a reporter is told from outside.

    Attributes:
        progress: "auto", "live", "lines" or "quiet", as the setting says.
        ci: "github", "gitlab", "other" or "".
        colour: "auto" (on a terminal), "always" or "never".
        terminal: the TERM of the environment.
        events: path of the event log, "" for none.
        record: where the record of the run goes, None for nowhere.
    """

    progress: str = "auto"
    ci: str = ""
    colour: str = "auto"
    terminal: str = ""
    events: str = ""
    record: Path | None = None

    @classmethod
    def parse(cls, environ: Mapping[str, str], *, progress: str, events: str, build: Path) -> Self:
        """Return what the environment and these settings say.

        Source: no-color.org and force-color.org: any text but the empty one counts; NO_COLOR wins. GITHUB_ACTIONS and
        GITLAB_CI are "true" on their machines, CI on nearly all others.
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
