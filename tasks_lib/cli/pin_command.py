"""Commands that edit definitions: `doit add`, `doit update`. They need no dodo.py, and create no tasks."""

from __future__ import annotations

import abc
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from doit.exceptions import InvalidCommand

from tasks_lib.engine.base_command import STARTED_IN, BaseCommand, load_dodo
from tasks_lib.errors import DefinitionError, FetchError, SettingError, escape_lines
from tasks_lib.progress import LineProgress, describe_wait
from tasks_lib.session import Session, current_session
from tasks_lib.ui.events import write_to_stderr

DRY_RUN: Final = {
    "name": "dry_run", "short": "", "long": "dry-run", "type": bool, "default": False,
    "help": "show what would be written, and write nothing",
}  # fmt: skip
JSON: Final = {
    "name": "json", "short": "", "long": "json", "type": bool, "default": False, "help": "short for --format json",
}  # fmt: skip
FORMAT: Final = {
    "name": "format", "short": "", "long": "format", "type": str, "default": "text",
    "choices": (("text", ""), ("json", "")), "help": "format of the output",
}  # fmt: skip


class PinCommand(BaseCommand, abc.ABC):
    """A command that edits definitions. Exit status: 0 success; 1 failure; 3 wrong command line or definitions."""

    doc_usage = ""

    @abc.abstractmethod
    def work(self, session: Session, params: Any, args: list[str], progress: LineProgress) -> int:
        """Do the work; return the exit status.

        Raises:
            InvalidCommand: the command line is wrong.
            FetchError: it fails.
        """

    def execute(self, params: Any, args: list[str]) -> int:
        """Run the command; a task of the dodo.py that has its name runs instead.

        Raises:
            InvalidCommand: the command line, a setting or the definitions are wrong; doit prints the message.
        """
        session = self._start(params, args)
        if params["json"]:
            params["format"] = "json"
        try:
            return self.work(session, params, args, LineProgress(write_to_stderr, describe_wait))
        except (DefinitionError, SettingError) as error:
            raise usage_error(escape_lines(str(error))) from None
        except FetchError as error:
            sys.stderr.write(f"ERROR: {escape_lines(str(error))}\n")
            return 1
        except KeyboardInterrupt:
            return 130

    def _start(self, params: Any, args: list[str]) -> Session:
        """Return the session; a project without a dodo.py has the settings of its environment and pyproject.toml."""
        if not Path("dodo.py").exists() and params.get("dodoFile", "") == "dodo.py":
            import doit_fetch

            doit_fetch.DOIT_CONFIG  # noqa: B018  # starts the session
        else:
            load_dodo(self.loader, params)
        if f"task_{self.name}" in (getattr(self.loader, "namespace", None) or {}):
            sys.stderr.write(f"running the task {self.name!r} of dodo.py; `doit-fetch {self.name}` is the command\n")
            sys.stderr.flush()
            os.execv(sys.executable, [sys.executable, "-m", "doit", "run", self.name, *args])
        session = current_session()
        if session is None:
            raise usage_error(
                "this dodo.py does not use doit_fetch\nadd to it: from doit_fetch import DOIT_CONFIG, task_fetchdefs"
            )
        return session

    def write_json(self, value: Any) -> None:
        """Write a JSON document."""
        self.outstream.write(f"{json.dumps(value, indent=2, ensure_ascii=False)}\n")

    def write_lines(self, lines: Iterable[str]) -> None:
        """Write lines."""
        for line in lines:
            self.outstream.write(f"{line}\n")


def usage_error(reason: str) -> InvalidCommand:
    """Return the error for a wrong command line, which doit prints."""
    return InvalidCommand(reason)  # type: ignore[no-untyped-call]  # doit has no types


def given_path(text: str) -> Path | None:
    """Return a path of the command line, which is relative to the directory in which the command was started."""
    return Path(os.path.relpath(Path(STARTED_IN.get() or Path.cwd(), text))) if text else None
