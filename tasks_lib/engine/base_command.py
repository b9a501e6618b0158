"""Start of a command: parse its command line, then load dodo.py."""

from __future__ import annotations

import contextlib
import errno
import getopt
import io
import os
import sys
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from doit import doit_cmd, get_initial_workdir
from doit.cmd_base import DoitCmdBase
from doit.cmdparse import CmdParseError
from doit.exceptions import InvalidCommand

import doit_fetch
from tasks_lib.errors import escape_text
from tasks_lib.session import Session, current_session

_COMMAND: Any = DoitCmdBase  # doit has no types
_HELP: Final = ("--help", "-h")
#: errno values of writing to a full or closed output.
_OUTPUT_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
#: Whether dodo.py is loaded for its settings only, without creating anything or waiting.
SETTINGS_ONLY: Final = ContextVar("settings only", default=False)
#: Commands that do not create the cache directory, and whether one of them is running.
_READING: Final = frozenset({"cache", "graph", "info", "list", "report", "sbom", "why"})
IS_READING: Final = ContextVar("is reading", default=False)
#: What each command of this package does; `doit help` lists them without importing their modules.
PURPOSES: Final = {
    "add": "write the definition of a URL, after downloading and verifying it",
    "adopt": "find downloads that are not pinned, in scripts, Dockerfiles and build files",
    "audit": "show what makes definitions insecure, fragile or old",
    "cache": "show the content of the cache: sizes by kind, hit rates, largest and oldest items",
    "export": "give downloads to other programs: a directory in the layout of each",
    "graph": "write the graph of tasks as Mermaid, DOT or JSON",
    "info": "show details of a task: artifact, sources, provenance, dependents, why it would run",
    "outdated": "show definitions of which upstream has a newer version",
    "path": "print the path of an artifact or a tree, obtaining it if it is missing",
    "prove": "build in an empty cache without a network, to show that no origin is needed",
    "prune": "remove cached content that no definition needs",
    "report": "write a page and a trace of the last run",
    "sbom": "write a bill of materials: CycloneDX or SPDX",
    "store": "show the shared stores, push to them, pull from them, prune them",
    "update": "move definitions to other versions, after downloading and verifying them",
    "verify": "read all cached and extracted content and compare it with the digests",
    "why": "show which tasks would run, and which inputs changed since the last run",
}
#: Commands that doit itself does not have: a task of dodo.py may have their name, and then it runs instead.
YIELDING: Final = tuple(name for name in PURPOSES if name != "info")
#: Whether this is the program `doit-fetch`, which needs no dodo.py and in which a command has precedence over a task.
IS_OWN_PROGRAM: Final = ContextVar("own program", default=False)


def flag(long: str, meaning: str, *, short: str = "") -> dict[str, Any]:
    """Return an option without a value, in doit's format."""
    name = long.replace("-", "_")
    return {"name": name, "short": short, "long": long, "type": bool, "default": False, "help": meaning}


def option(
    long: str, meaning: str, *, default: str = "", metavar: str = "", short: str = "", name: str = ""
) -> dict[str, Any]:
    """Return an option with a text as its value, in doit's format; `name` is its parameter if not that of `long`."""
    given: dict[str, Any] = {"metavar": metavar} if metavar else {}
    name = name or long.replace("-", "_")
    return {**given, "name": name, "short": short, "long": long, "type": str, "default": default, "help": meaning}


def format_option(*choices: tuple[str, str]) -> dict[str, Any]:
    """Return the option `--format` with these choices, of which the first is the default."""
    return {
        "name": "format", "short": "", "long": "format", "metavar": "FORMAT", "type": str, "default": choices[0][0],
        "choices": choices, "help": "output format [default: %(default)s]",
    }  # fmt: skip


#: Options of several commands, in doit's format; the first one of those that may use the network.
OFFLINE: Final = flag("offline", "make no network request; same as `offline=1`")
JSON: Final = flag("json", "short for --format json")
OUTPUT_FILE: Final = option(
    "output-file", "write to this file [default: stdout]", metavar="FILE", short="o", name="into"
)
#: The directory in which `doit-fetch` was started, if it changed to that of the project; "" for the current one.
STARTED_IN: Final = ContextVar("directory at the start", default="")
#: Exit status when the reader of the output is gone: 128 + SIGPIPE, as for a program killed by that signal.
PIPE_CLOSED: Final = 141


class BaseCommand(_COMMAND):  # type: ignore[misc]
    """A command with a help page, which reports unknown options in two lines."""

    outstream: Any

    def __init_subclass__(cls) -> None:
        """Give the command its purpose."""
        super().__init_subclass__()
        if purpose := PURPOSES.get(vars(cls).get("name", "")):
            cls.doc_purpose = purpose

    def parse_execute(self, in_args: list[str]) -> int:
        """Execute a command line, or show help for `--help`. Options may follow names, unless the command runs tasks.

        For such a command, words after a task's name may be options of the task.

        Raises:
            CmdParseError: unknown option; doit prints the message.
            InvalidCommand: the output cannot be written; doit prints the message.
        """
        _open_closed_streams()
        IS_READING.set(self.name in _READING)
        self.outstream = self.outstream or sys.stdout
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(
                errors="backslashreplace"
            )  # descriptions may contain characters that the encoding lacks
        own = in_args[:1] if self.execute_tasks else in_args
        status = 0
        try:
            if any(word in _HELP for word in own):
                sys.stdout.write(f"{self._manual(in_args)}\n")
            else:
                status = int(super().parse_execute(self._options_first(in_args)) or 0)
            sys.stdout.flush()
        except BrokenPipeError:
            _discard_stdout()
            return PIPE_CLOSED
        except OSError as error:
            if error.filename is not None or error.errno not in _OUTPUT_ERRNOS:
                raise
            _discard_stdout()
            message = f"cannot write the output: {error.strerror}\ncheck its destination, then run again"
            raise usage_error(message) from None
        except (CmdParseError, getopt.GetoptError) as error:
            cause = error.__context__
            message = str(cause) if isinstance(cause, getopt.GetoptError) else " ".join(str(error).split())
            raise CmdParseError(f"{self.name}: {message}\n`doit help {self.name}` shows its options") from None
        return status

    def _options_first(self, in_args: list[str]) -> list[str]:
        """Return a command line with its options before its words, where doit's parser finds them."""
        if self.execute_tasks:
            return in_args
        options, words = getopt.gnu_getopt(in_args, self.cmdparser.get_short(), self.cmdparser.get_long())
        return [word for option in options for word in option if word] + words

    def help(self) -> str:
        """Return the help page: doit's own page for doit's commands if dodo.py does not use this package."""
        is_stock = current_session() is None and isinstance(self, doit_cmd.DoitMain.DOIT_CMDS)
        return str(super().help()) if is_stock else str(_help_pages().render_page(self))

    def _manual(self, in_args: list[str]) -> str:
        """Return the help page for a command line that contains `--help`."""
        words = [word for word in in_args if word not in _HELP]
        try:
            params, _ = self.cmdparser.parse(words)
        except CmdParseError:  # unknown option: the page lists the known ones
            params, _ = self.cmdparser.parse([])
        params.update(self.opt_vals)
        return str(_help_pages().render_command_help(self, self.loader, params))


def _help_pages() -> ModuleType:
    from tasks_lib.engine import help_pages  # needed only when a page is shown

    return help_pages


def _open_closed_streams() -> None:
    """Redirect closed streams to /dev/null, so that no output goes to a database that got their descriptor."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  # open until exit


def _discard_stdout() -> None:
    """Redirect stdout to /dev/null, for text still in its buffer. Source: Python documentation, "Note on SIGPIPE"."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def format_write_error(path: object, error: OSError) -> str:
    """Return the message for an output file that cannot be written."""
    return f"cannot write {escape_text(str(path))}: {error.strerror}\ncheck that its directory exists and is writable"


def load_dodo(loader: Any, params: Any) -> None:
    """Load dodo.py with doit's loader.

    Raises:
        InvalidCommand: as `require_directory`.
        Exception: any exception that dodo.py raises.
    """
    require_directory()
    if params.get(OFFLINE["name"]):
        doit_cmd.set_var("offline", "1")  # type: ignore[no-untyped-call]  # doit has no types
    loader.setup(params)


def yield_to_task(command: str, loader: Any) -> None:
    """Become `doit run` if the loaded dodo.py has a task with the name of this command; return if it has none."""
    if command not in YIELDING or IS_OWN_PROGRAM.get() or not has_task(loader, command):
        return
    sys.stderr.write(f"running the task {command!r} of dodo.py; `doit-fetch {command}` is the command\n")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    words = sys.argv[1:]
    at = words.index(command) if command in words else 0
    os.chdir(get_initial_workdir())  # type: ignore[no-untyped-call]  # doit has no types
    os.execv(sys.executable, [sys.executable, "-m", "doit", *words[:at], "run", *words[at:]])


def has_task(loader: Any, name: str) -> bool:
    """Return whether the loaded dodo.py has a task of this name."""
    return f"task_{name}" in (getattr(loader, "namespace", None) or {})


def start_without_dodo() -> None:
    """Start the session as a dodo.py does that uses this package; keep the one that is started."""
    doit_fetch.DOIT_CONFIG  # noqa: B018  # starts the session


def require_session(command: str) -> Session:
    """Return the session that dodo.py started; `doit-fetch` starts one if there is none.

    Raises:
        InvalidCommand: dodo.py does not use this package; doit prints the message.
    """
    if IS_OWN_PROGRAM.get():
        start_without_dodo()
    session = current_session()
    if session is None:
        message = f"this dodo.py does not use doit_fetch\n`doit-fetch {command}` works without one"
        raise usage_error(message)
    return session


def from_start(path: str) -> Path:
    """Return a path of the command line, which is relative to the directory in which the program was started."""
    return Path(STARTED_IN.get() or get_initial_workdir() or "", path)  # type: ignore[no-untyped-call]  # no types


def usage_error(message: str) -> InvalidCommand:
    """Return the error of a command line; doit prints its message."""
    return InvalidCommand(message)  # type: ignore[no-untyped-call]  # doit has no types


def require_directory() -> None:
    """Check that the current directory exists.

    Raises:
        InvalidCommand: it was removed; doit prints the message.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        message = "the current directory was removed\nchange to an existing directory, then run again"
        raise usage_error(message) from None
