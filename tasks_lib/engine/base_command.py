"""How a command starts: its words are read, then a dodo.py is loaded, wherever that is."""

from __future__ import annotations

import contextlib
import errno
import getopt
import io
import os
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from doit import doit_cmd
from doit.cmd_base import DoitCmdBase
from doit.cmdparse import CmdParseError
from doit.exceptions import InvalidCommand

from tasks_lib.errors import escaped
from tasks_lib.session import current_session

_COMMAND: Any = DoitCmdBase  # doit has no types
_HELP: Final = ("--help", "-h")
#: What is said where no more text goes.
_UNWRITTEN: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
#: Whether dodo.py is loaded for its settings only: nothing is made then, and nothing is waited for.
SETTINGS_ONLY: Final = ContextVar("settings only", default=False)
#: Exit status when whoever read our output went away: 128 + SIGPIPE, as of a program that is killed by it.
PIPE_CLOSED: Final = 141


class BaseCommand(_COMMAND):  # type: ignore[misc]
    """A command that explains itself, and says in two lines which option it does not know."""

    outstream: Any

    def parse_execute(self, in_args: list[str]) -> int:
        """Execute what was written, or show the help that it asks for; after a task's name words may be the task's.

        Raises:
            CmdParseError: an option that there is not; doit prints it.
            InvalidCommand: the output cannot be written; doit prints it.
        """
        _open_closed()
        self.outstream = self.outstream or sys.stdout
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")  # a description may be in letters that it cannot write
        own = in_args[:1] if self.execute_tasks else in_args
        status = 0
        try:
            if any(word in _HELP for word in own):
                sys.stdout.write(f"{self._manual(in_args)}\n")
            else:
                status = int(super().parse_execute(in_args) or 0)
            sys.stdout.flush()
        except BrokenPipeError:
            _silence()
            return PIPE_CLOSED
        except OSError as error:
            if error.filename is not None or error.errno not in _UNWRITTEN:
                raise
            _silence()
            told = f"the output cannot be written: {error.strerror}\nsee where it goes, and run again"
            raise InvalidCommand(told) from None  # type: ignore[no-untyped-call]  # doit has no types
        except CmdParseError as error:
            why = error.__context__
            told = str(why) if isinstance(why, getopt.GetoptError) else " ".join(str(error).split())
            raise CmdParseError(f"{self.name}: {told}\n`doit help {self.name}` shows its options") from None
        return status

    def help(self) -> str:
        """Return the help page; without a dodo.py of ours a command that replaces one of doit keeps doit's page."""
        from tasks_lib.engine import help_pages  # laid out only when it is shown

        is_stock = current_session() is None and isinstance(self, doit_cmd.DoitMain.DOIT_CMDS)
        return str(super().help()) if is_stock else help_pages.page(self)

    def _manual(self, in_args: list[str]) -> str:
        """Return the help page that `--help` among these words asks for."""
        from tasks_lib.engine import help_pages

        words = [word for word in in_args if word not in _HELP]
        try:
            params, _ = self.cmdparser.parse(words)
        except CmdParseError:  # an option that there is not: the page shows which there are
            params, _ = self.cmdparser.parse([])
        params.update(self.opt_vals)
        return help_pages.of(self, self.loader, params)


def _open_closed() -> None:
    """Let what is said on a closed output go nowhere; a database that got its descriptor would hear it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  # to the end


def _silence() -> None:
    """Let what is still in a buffer go nowhere. Source: Python documentation of SIGPIPE."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report_closed_output(path: object, error: OSError) -> str:
    """Return what to say of a file that was asked for with an option."""
    return (
        f"{escaped(str(path))} cannot be written: {error.strerror}\nsee that its directory is there and may be written"
    )


def set_up(loader: Any, params: Any) -> None:
    """Let doit's loader load the dodo.py.

    Raises:
        InvalidCommand: as `require_directory`.
        whatever the dodo.py raises.
    """
    require_directory()
    loader.setup(params)


def require_directory() -> None:
    """Refuse to go on without the directory in which doit was started.

    Raises:
        InvalidCommand: it is gone; doit prints it.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        told = "the directory in which doit was started was removed\nchange into one that is there, and run again"
        raise InvalidCommand(told) from None  # type: ignore[no-untyped-call]  # doit has no types
