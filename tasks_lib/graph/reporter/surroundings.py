"""Where a run is shown: terminal or pipe, which CI, colours, and where its record goes. Decided from text alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self


class Surroundings(NamedTuple):
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
