"""`doit adopt`: find downloads that a repository makes without a pin, and define them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tasks_lib.adopt import FoundDownload, find_downloads
from tasks_lib.adopt.findings import replace_commit, replace_file
from tasks_lib.cli.add import load_definitions
from tasks_lib.cli.sarif import SarifResult, SarifRule, format_sarif
from tasks_lib.context import Context
from tasks_lib.definitions import Git, StaticUrl
from tasks_lib.engine.base_command import (
    SETTINGS_ONLY,
    BaseCommand,
    flag,
    from_start,
    load_dodo,
    start_without_dodo,
    usage_error,
    yield_to_task,
)
from tasks_lib.errors import DefinitionError, FetchError, SettingError, escape_lines, escape_text
from tasks_lib.parallel import open_pool
from tasks_lib.pins.add import AddRequest, add
from tasks_lib.pins.workspace import Workspace
from tasks_lib.progress import Silent, Stoppable
from tasks_lib.session import Session, current_session
from tasks_lib.ui.events import stderr_progress

_RULES: Final = {
    "unpinned": SarifRule("A download is not pinned to a digest"),
    "dead": SarifRule("A download is not available any more", "error"),
}
#: Statuses of servers that have a file but do not say so to a HEAD. Source: RFC 9110 section 15.
_UNKNOWN: Final = (401, 403, 405, 407, 429, 501, 503)


class _CheckedDownload(NamedTuple):
    """A download, and its file as the user would write it."""

    file: str
    found: FoundDownload

    @property
    def place(self) -> str:
        """Its file and line."""
        return f"{escape_text(self.file)}:{self.found.line}"


class AdoptCommand(BaseCommand):
    """`doit adopt`."""

    name = "adopt"
    doc_usage = "[PATH ...]"
    doc_description = (
        "PATH is a file or a directory (default: the current one). Nothing that is found is executed or edited. "
        "Exit status: 0 every download is pinned; 1 one is not, or is dead; 3 a path cannot be read."
    )
    cmd_options = (
        flag("check", "ask for each with a HEAD request, and show those that are dead"),
        flag("write", "add a definition of each that is not pinned, as `doit add` does, and show its replacement"),
        flag("sarif", "write what is not pinned as SARIF, for code scanning"),
    )

    def execute(self, params: Any, args: list[str]) -> int:
        """Find downloads; a task of the dodo.py that is called `adopt` runs instead.

        Raises:
            InvalidCommand: a path cannot be read, or settings or definitions are invalid; doit prints the message.
        """
        SETTINGS_ONLY.set(True)
        if Path("dodo.py").exists() or params.get("dodoFile", "dodo.py") != "dodo.py":
            load_dodo(self.loader, params)
            yield_to_task(self.name, self.loader)
        try:
            downloads = list(_find(args or ["."]))
            dead = _find_dead(downloads) if params["check"] else set()
            if params["sarif"]:
                self._write_sarif(downloads, dead)
            else:
                self._write_lines(downloads, dead)
            if params["write"]:
                out = sys.stderr if params["sarif"] else self.outstream
                _define([one for one in downloads if not one.found.pinned], out)
        except (SettingError, DefinitionError) as error:
            raise usage_error(escape_lines(str(error))) from None
        except KeyboardInterrupt:
            return 130
        return int(bool(dead) or any(not one.found.pinned for one in downloads))

    def _write_lines(self, downloads: Sequence[_CheckedDownload], dead: set[str]) -> None:
        for one in downloads:
            state = "pinned" if one.found.pinned else "unpinned"
            ending = " dead" if one.found.url in dead else ""
            self.outstream.write(f"{one.place}: {state} {_shown(one.found)}{ending}\n")

    def _write_sarif(self, downloads: Sequence[_CheckedDownload], dead: set[str]) -> None:
        messages = {"unpinned": "is downloaded without a digest that pins it", "dead": "is not available any more"}
        results = [
            SarifResult(rule, f"{_shown(one.found)} {message}", one.file, one.found.line)
            for one in downloads
            for rule, message in messages.items()
            if (not one.found.pinned if rule == "unpinned" else one.found.url in dead)
        ]
        self.outstream.write(f"{json.dumps(format_sarif(_RULES, results), indent=2)}\n")


def _shown(one: FoundDownload) -> str:
    """Return the URL of a download without user name and password: the output may be public, the file may not."""
    start, sign, rest = one.url.partition("://")
    host, slash, path = rest.partition("/")
    return escape_text(f"{start}{sign}{host.rpartition('@')[2]}{slash}{path}")


def _find(paths: Iterable[str]) -> Iterator[_CheckedDownload]:
    """Yield the downloads below paths.

    Raises:
        InvalidCommand: a path cannot be read.
    """
    for given in paths:
        top = from_start(given)
        try:
            for path, one in find_downloads(top):
                yield _CheckedDownload(os.path.normpath(Path(given, path.relative_to(top))), one)
        except OSError as error:
            message = f"cannot read {escape_text(given)}: {error.strerror or error}\ngive a file or a directory"
            raise usage_error(message) from None


def _session() -> Session:
    """Return a session that has read nothing yet; a directory without a dodo.py has settings, too."""
    start_without_dodo()
    session = current_session()
    assert session is not None
    return Session(session.settings, session.environ)


def _find_dead(downloads: Sequence[_CheckedDownload]) -> set[str]:
    """Return the URLs of files that their servers do not have; a URL with an unknown variable is not asked."""
    session = _session()
    transport = Context(session.settings, session.environ, mirrors="none").transport

    progress = Stoppable(Silent())

    def is_dead(url: str) -> bool:
        try:
            status = transport.head(url, headers={}, check=progress.check).status
        except FetchError:
            return True
        return status >= 400 and status not in _UNKNOWN

    urls = sorted({one.found.url for one in downloads if one.found.is_complete and one.found.revision is None})
    with open_pool(session.settings.jobs, progress) as threads:
        return {url for url, dead in zip(urls, threads.map(is_dead, urls), strict=True) if dead}


def _define(downloads: Sequence[_CheckedDownload], out: Any) -> None:
    """Add a definition of each download, and write the line that replaces it; report what cannot be added.

    Raises:
        SettingError, DefinitionError, CacheUnavailableError: nothing can be added.
    """
    session = _session()
    for warning in session.settings.judge_cache():
        sys.stderr.write(f"warning: {escape_text(warning)}\n")
    for one in downloads:
        if not one.found.is_complete:
            sys.stderr.write(
                f"{one.place}: not added: a variable in its URL is not known; give the URL to `doit add`\n"
            )
            continue
        try:
            out.write(f"{one.place}: replace with: {escape_text(_add(one.found))}\n")
        except (SettingError, DefinitionError):
            raise
        except FetchError as error:
            sys.stderr.write(f"{one.place}: not added: {escape_lines(str(error))}\n")


def _add(one: FoundDownload) -> str:
    """Add the definition of a download; return the line that replaces it.

    Raises:
        FetchError: it cannot be downloaded or defined.
    """
    session = _session()
    progress = stderr_progress()
    workspace = Workspace(session.context, load_definitions(session), progress)
    url = one.url if one.revision is None else f"{one.url}#{one.revision or 'HEAD'}"
    added = add(workspace, AddRequest(url=url, strip="0"))
    source = load_definitions(_session()).fetches[added.name].source
    if isinstance(source, StaticUrl):
        return replace_file(one, added.name, source.integrity)
    return replace_commit(one, source.revision if isinstance(source, Git) else "")
