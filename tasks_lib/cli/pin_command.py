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

from tasks_lib.cli.definition_command import UNUSABLE, format_option
from tasks_lib.engine.base_command import (
    STARTED_IN,
    BaseCommand,
    load_dodo,
    require_session,
    start_without_dodo,
    usage_error,
    yield_to_task,
)
from tasks_lib.errors import DefinitionError, FetchError, SettingError, escape_lines
from tasks_lib.progress import LineProgress, describe_wait
from tasks_lib.session import Session
from tasks_lib.ui.events import write_to_stderr

DRY_RUN: Final = {
    "name": "dry_run", "short": "", "long": "dry-run", "type": bool, "default": False,
    "help": "show what would be written, and write nothing",
}  # fmt: skip
FORMAT: Final = format_option(("text", "for people"), ("json", "for programs"))
#: A word that is a variable for doit, not an argument. Source: doit 0.37, `DoitMain.process_args`.
_VARIABLE: Final = re.compile(r"[A-Za-z_]\w*=")


class PinCommand(BaseCommand, abc.ABC):
    """A command that edits definitions. Exit status: 0 success; 1 failure; 2 unusable definitions; 3 usage error."""

    doc_usage = ""

    @abc.abstractmethod
    def work(self, session: Session, params: Any, args: list[str], progress: LineProgress) -> int:
        """Do the work; return the exit status.

        Raises:
            InvalidCommand: the command line is wrong.
            FetchError: it fails.
        """

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

    def execute(self, params: Any, args: list[str]) -> int:
        """Run the command; a task of the dodo.py that has its name runs instead.

        Raises:
            InvalidCommand: the command line, a setting or the definitions are wrong; doit prints the message.
        """
        session = self._start(params)
        if params["json"]:
            params["format"] = "json"
        try:
            return self.work(session, params, args, LineProgress(write_to_stderr, describe_wait))
        except DefinitionError as error:
            sys.stderr.write(f"{escape_lines(str(error))}\n")
            return UNUSABLE
        except SettingError as error:
            raise usage_error(escape_lines(str(error))) from None
        except FetchError as error:
            sys.stderr.write(f"ERROR: {escape_lines(str(error))}\n")
            return 1
        except KeyboardInterrupt:
            return 130

    def _start(self, params: Any) -> Session:
        """Return the session; a project without a dodo.py has the settings of its environment and pyproject.toml."""
        if not Path("dodo.py").exists() and params.get("dodoFile", "") == "dodo.py":
            start_without_dodo()
        else:
            load_dodo(self.loader, params)
        yield_to_task(str(self.name), self.loader)
        return require_session(str(self.name))

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
