"""Commands that edit definitions: `doit add`, `doit update`. They need no dodo.py, and create no tasks."""

from __future__ import annotations

import abc
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tasks_lib.cli.definition_command import format_option
from tasks_lib.cli.project_command import ProjectCommand
from tasks_lib.engine.base_command import (
    STARTED_IN,
    flag,
    require_session,
    start_without_dodo,
)
from tasks_lib.progress import LineProgress, describe_wait
from tasks_lib.session import Session
from tasks_lib.ui.events import write_to_stderr

DRY_RUN: Final = flag("dry-run", "show what would be written, and write nothing")
FORMAT: Final = format_option(("text", "for people"), ("json", "for programs"))
#: A word that is a variable for doit, not an argument. Source: doit 0.37, `DoitMain.process_args`.
_VARIABLE: Final = re.compile(r"[A-Za-z_]\w*=")


class PinCommand(ProjectCommand):
    """A command that edits definitions. Exit status: 0 success; 1 failure; 2 unusable definitions; 3 usage error."""

    doc_usage = ""
    unusable = 2

    def get_options(self) -> list[Any]:
        """Return all options; one of doit's that has the name of an own one keeps its letter only: `-f` for dodo.py."""
        options: list[Any] = super().get_options()
        own = {one["long"] for one in self.cmd_options}
        for option in options[: -len(self.cmd_options)]:
            if option.long in own:
                option.long = ""
        return options

    def parse_execute(self, in_args: list[str]) -> int:
        """Run a command line; a URL with a query is an argument, although doit takes it for a variable.

        Raises:
            CmdParseError, InvalidCommand: as `BaseCommand.parse_execute`.
        """
        return super().parse_execute(_restore(in_args, str(self.name)))

    def work(self, session: Session, params: Any, args: list[str]) -> int:
        """Edit, and show what was done as text or JSON."""
        if params["json"]:
            params["format"] = "json"
        return self.edit(session, params, args, LineProgress(write_to_stderr, describe_wait))

    @abc.abstractmethod
    def edit(self, session: Session, params: Any, args: list[str], progress: LineProgress) -> int:
        """Do the work; return the exit status.

        Raises:
            InvalidCommand: the command line is wrong.
            FetchError: it fails.
        """

    def start(self, params: Any) -> Session:
        """Return the session; a project without a dodo.py has the settings of its environment and pyproject.toml.

        Raises:
            InvalidCommand: as `execute`.
        """
        if Path("dodo.py").exists() or params.get("dodoFile", "") != "dodo.py":
            return super().start(params)
        start_without_dodo()
        return require_session(self.name)

    def write_json(self, value: Any) -> None:
        """Write a JSON document."""
        self.outstream.write(f"{json.dumps(value, indent=2, ensure_ascii=False)}\n")

    def write_lines(self, lines: Iterable[str]) -> None:
        """Write lines."""
        for line in lines:
            self.outstream.write(f"{line}\n")


def given_path(text: str) -> Path | None:
    """Return a path of the command line, which is relative to the directory in which the command was started."""
    return Path(os.path.relpath(Path(STARTED_IN.get() or Path.cwd(), text))) if text else None


def _restore(words: list[str], command: str) -> list[str]:
    """Return the words of a command with those that doit has taken for variables, such as `https://host/x?a=b`."""
    given = sys.argv[1:]
    given = given[given.index(command) + 1 :] if command in given else []
    if [word for word in given if word.startswith("-") or "=" not in word] != words:
        return words  # called in another way
    return [word for word in given if not _VARIABLE.match(word)]
