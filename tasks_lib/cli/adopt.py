"""`doit adopt`: find downloads that a repository makes without a pin."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from doit.exceptions import InvalidCommand

from tasks_lib.cli.sarif import SarifResult, SarifRule, format_sarif
from tasks_lib.engine.base_command import SETTINGS_ONLY, BaseCommand, from_start, load_dodo, run_task_instead
from tasks_lib.errors import escape_text

if TYPE_CHECKING:
    from tasks_lib.adopt import Finding

_RULES: Final = {"unpinned": SarifRule("A download is not pinned to a digest")}


class AdoptCommand(BaseCommand):
    """`doit adopt`."""

    name = "adopt"
    doc_purpose = "find downloads that are not pinned, in scripts, Dockerfiles and build files"
    doc_usage = "[PATH ...]"
    doc_description = (
        "PATH is a file or a directory (default: the current one). Nothing that is found is executed or edited. "
        "Exit status: 0 every download is pinned; 1 one is not; 3 a path cannot be read."
    )
    cmd_options = (
        {
            "name": "sarif", "short": "", "long": "sarif", "type": bool, "default": False,
            "help": "write what is not pinned as SARIF, for code scanning",
        },
    )  # fmt: skip

    def execute(self, params: Any, args: list[str]) -> int:
        """Find downloads; a task of the dodo.py that is called `adopt` runs instead.

        Raises:
            InvalidCommand: a path cannot be read; doit prints the message.
        """
        if Path("dodo.py").exists():
            SETTINGS_ONLY.set(True)
            load_dodo(self.loader, params)
            run_task_instead(self.loader, self.name, args)
        status = 0
        found: list[tuple[str, Finding]] = []
        for name, one in _find(args or ["."]):
            found.append((name, one))
            status = status or int(not one.pinned)
            if not params["sarif"]:
                self.outstream.write(f"{_format(name, one)}\n")
        if params["sarif"]:
            self._write_sarif(found)
        return status

    def _write_sarif(self, found: Iterable[tuple[str, Finding]]) -> None:
        results = [
            SarifResult("unpinned", f"{one.url} is downloaded without a digest that pins it", name, one.line)
            for name, one in found
            if not one.pinned
        ]
        self.outstream.write(f"{json.dumps(format_sarif(_RULES, results), indent=2)}\n")


def _find(paths: Iterable[str]) -> Iterator[tuple[str, Finding]]:
    """Yield the downloads below paths, with their file as the user would write it.

    Raises:
        InvalidCommand: a path cannot be read.
    """
    from tasks_lib.adopt import find_downloads  # loads the readers, which `doit help` does not need

    for given in paths:
        top = from_start(given)
        try:
            for path, one in find_downloads(top):
                yield os.path.normpath(Path(given, path.relative_to(top))), one
        except OSError as error:
            message = f"cannot read {escape_text(given)}: {error.strerror or error}\ngive a file or a directory"
            raise InvalidCommand(message) from None  # type: ignore[no-untyped-call]  # doit has no types


def _format(name: str, one: Finding) -> str:
    """Return the line of a download."""
    return f"{escape_text(name)}:{one.line}: {'pinned' if one.pinned else 'unpinned'} {escape_text(one.url)}"
