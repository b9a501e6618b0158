"""Base of the commands about definitions: they load the definitions, run no task, and answer for people or programs."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tasks_lib.cli.project_command import ProjectCommand
from tasks_lib.definitions import Fetch
from tasks_lib.definitions.lookup import find_definitions
from tasks_lib.engine.base_command import flag
from tasks_lib.errors import escape_text
from tasks_lib.session import Session

JSON: Final = flag("json", "short for --format json")


def format_option(*choices: tuple[str, str]) -> dict[str, Any]:
    """Return the option `--format` with these choices, of which the first is the default."""
    return {
        "name": "format", "short": "", "long": "format", "metavar": "FORMAT", "type": str, "default": choices[0][0],
        "choices": choices, "help": "output format [default: %(default)s]",
    }  # fmt: skip


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
