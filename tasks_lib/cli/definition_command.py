"""Base of the commands about definitions: they load the definitions, run no task, and answer for people or programs."""

from __future__ import annotations

import abc
import fnmatch
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tasks_lib.engine.base_command import BaseCommand, load_dodo, require_session, usage_error, yield_to_task
from tasks_lib.errors import DefinitionError, FetchError, SettingError, escape_lines, escape_text, suggest
from tasks_lib.session import Session

#: Exit status for definitions that cannot be used.
UNUSABLE: Final = 2
JSON: Final = {
    "name": "json", "short": "", "long": "json", "type": bool, "default": False, "help": "short for --format json",
}  # fmt: skip


def format_option(*choices: tuple[str, str]) -> dict[str, Any]:
    """Return the option `--format` with these choices, of which the first is the default."""
    return {
        "name": "format", "short": "", "long": "format", "metavar": "FORMAT", "type": str, "default": choices[0][0],
        "choices": choices, "help": "output format [default: %(default)s]",
    }  # fmt: skip


class DefinitionCommand(BaseCommand, abc.ABC):
    """A command about the fetch definitions that its arguments name, or all."""

    def execute(self, params: Any, args: list[str]) -> int:
        """Run the command; a task of the dodo.py that has its name runs instead.

        Raises:
            InvalidCommand: the command line is wrong, or dodo.py does not use this package; doit prints the message.
        """
        load_dodo(self.loader, params)
        yield_to_task(str(self.name), self.loader)
        session = require_session(str(self.name))
        try:
            fetches = select_fetches(session, args)
            return self.answer(session, fetches, params)
        except DefinitionError as error:
            sys.stderr.write(f"{escape_lines(str(error))}\n")
            return UNUSABLE
        except SettingError as error:
            raise usage_error(str(error)) from None
        except FetchError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        except KeyboardInterrupt:
            return 130

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


def select_fetches(session: Session, words: Sequence[str]) -> list[Any]:
    """Return the fetch definitions that the words mean, all of them without words, each once and in their order.

    Raises:
        DefinitionError: the definitions are invalid.
        InvalidCommand: a word matches nothing.
    """
    definitions = session.definitions
    if not words:
        return list(definitions.fetches.values())
    chosen: set[str] = set()
    for word in words:
        name = word.removeprefix("fetch:")
        try:
            found = [definitions.fetch(name).name]
        except KeyError:
            found = fnmatch.filter(definitions.fetches, name) if "*" in name else []
        if not found:
            raise usage_error(_explain_unknown(name, definitions.fetches))
        chosen.update(found)
    return [fetch for name, fetch in definitions.fetches.items() if name in chosen]


def _explain_unknown(name: str, known: Iterable[str]) -> str:

    hint = escape_text(suggest(name, list(known)) or "`doit list --all` shows the definitions")
    return f"no fetch definition is named {escape_text(name)!r}\n{hint}"
