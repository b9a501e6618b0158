"""Bases of the commands that need the definitions of a project, and no tasks."""

from __future__ import annotations

import abc
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from tasks_lib.definitions import Fetch
from tasks_lib.definitions.lookup import find_definitions
from tasks_lib.engine.base_command import (
    STARTED_IN,
    BaseCommand,
    flag,
    format_option,
    load_dodo,
    require_session,
    start_without_dodo,
    usage_error,
    yield_to_task,
)
from tasks_lib.errors import DefinitionError, FetchError, SettingError, UnknownNameError, escape_lines, escape_text
from tasks_lib.progress import LineProgress
from tasks_lib.session import Session
from tasks_lib.ui.events import stderr_progress


class ProjectCommand(BaseCommand, abc.ABC):
    """A command about a project. Exit status: 0 success; `failure`; `unusable` for invalid definitions; 3 usage error.

    A name that no definition has is a usage error.
    """

    name: str
    #: Exit status if the definitions cannot be used: 3 where nothing can be done without them, 2 where they are judged.
    unusable = 3
    #: Exit status of other errors.
    failure = 1

    def execute(self, params: Any, args: list[str]) -> int:
        """Run the command; a task of the dodo.py that has its name runs instead.

        Raises:
            InvalidCommand: the command line or a setting is wrong, or dodo.py does not use this package; doit prints
                the message.
        """
        session = self.start(params)
        try:
            return self.work(session, params, args)
        except DefinitionError as error:
            sys.stderr.write(f"ERROR: {escape_lines(str(error))}\n")
            return self.unusable
        except (UnknownNameError, SettingError) as error:
            raise usage_error(escape_lines(str(error))) from None
        except FetchError as error:
            sys.stderr.write(f"ERROR: {escape_lines(str(error))}\n")
            return self.failure
        except KeyboardInterrupt:
            return 130

    def start(self, params: Any) -> Session:
        """Load dodo.py; return the session that it started.

        Raises:
            InvalidCommand: as `execute`.
        """
        load_dodo(self.loader, params)
        yield_to_task(self.name, self.loader)
        return require_session(self.name)

    @abc.abstractmethod
    def work(self, session: Session, params: Any, args: list[str]) -> int:
        """Do the work; return the exit status.

        Raises:
            InvalidCommand: the command line is wrong.
            FetchError: it fails.
        """


class DefinitionCommand(ProjectCommand):
    """A command about the fetch definitions that its arguments name, or all."""

    unusable = 2

    def work(self, session: Session, params: Any, args: list[str]) -> int:
        """Answer for the definitions that the arguments name."""
        return self.answer(session, select_fetches(session, args), params)

    @abc.abstractmethod
    def answer(self, session: Session, fetches: Sequence[Any], params: Any) -> int:
        """Write the answer for these definitions; return the exit status."""

    def write_table(self, rows: Iterable[Sequence[str]]) -> None:
        """Write rows of escaped text in aligned columns; the first row is the header."""
        table = [[escape_text(cell) or "-" for cell in row] for row in rows]
        widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
        for row in table:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.outstream.write(f"{line.rstrip()}\n")


def select_fetches(session: Session, words: Sequence[str]) -> list[Fetch]:
    """Return the fetch definitions that the words mean, all of them without words, in the order of their files.

    Raises:
        DefinitionError: the definitions are invalid.
        UnknownNameError: a word matches nothing.
    """
    definitions = session.definitions
    if not words:
        return list(definitions.fetches.values())
    chosen = {one.name for one in find_definitions(definitions, words, ("fetch",))}
    return [definitions.fetches[name] for name in definitions.fetches if name in chosen]


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
        return self.edit(session, params, args, stderr_progress())

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
