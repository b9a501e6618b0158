"""The configuration and the tasks that doit finds in a dodo.py; `doit_fetch` exports both."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from doit import doit_cmd, get_var
from doit.exceptions import InvalidDodoFile
from doit.task import Task

from tasks_lib.engine.base_command import IS_READING, SETTINGS_ONLY
from tasks_lib.engine.checker import MD5Checker
from tasks_lib.engine.slim_task import slim_tasks
from tasks_lib.engine.state import snapshot_path
from tasks_lib.errors import FetchError, escape_lines, escape_text
from tasks_lib.layout import find_layout
from tasks_lib.named import NamedTuple
from tasks_lib.session import Session, current_session, start_session
from tasks_lib.settings import SETTINGS, Settings, find_misspelt, load_project


def start(environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Create the session of this run; return DOIT_CONFIG.

    Raises:
        InvalidDodoFile: a setting or the cache cannot be used; doit prints it in one line.
    """
    found = current_session() or _created(environ)
    return {
        "minversion": "0.37.0",
        # sinks first, so that downloads and extractions overlap
        "default_tasks": ["image", "toolchain", "repack", "fetch"],
        "backend": "doit-fetch",
        "check_file_uptodate": MD5Checker,
        "dep_file": str(found.database),
        "num_process": found.settings.jobs,
        "par_type": "thread",
        "reporter": "fetch",
    }


def _created(environ: Mapping[str, str]) -> Session:
    use_environment(environ)
    try:
        given = read_configuration()
        places = {"variables": given.variables, "environ": given.environ, "project": given.project}
        found = Session(Settings.parse(**places), environ)
        found.creates_cache = not IS_READING.get()
        warnings = [] if SETTINGS_ONLY.get() else found.settings.judge_cache()
        # a snapshot shows that the cache was opened before, and may answer alone; `enter` reports an unusable path
        if not SETTINGS_ONLY.get() and not os.path.exists(snapshot_path(str(found.database))):  # noqa: PTH110 - never raises
            found.enter()
    except FetchError as error:
        raise InvalidDodoFile(escape_lines(str(error))) from None
    # Source: doit 0.37, `doit_cmd.get_var`, which returns one variable and does not list them
    misspelt = find_misspelt(getattr(doit_cmd, "_CMDLINE_VARS", None) or (), environ)
    for line in (*given.warnings, *warnings, *misspelt):
        sys.stderr.write(f"warning: {escape_text(line)}\n")
    if note := find_layout(found.settings.fetchdefs).note:
        sys.stderr.write(f"note: {escape_text(note)}\n")
    start_session(found)
    return found


def task_fetchdefs() -> Iterator[Task]:
    """Yield every task of the definitions.

    Raises:
        InvalidDodoFile: the definitions are wrong, or a setting or the cache cannot be used; doit prints every problem.
    """
    found = current_session()
    assert found is not None, "doit_fetch starts the session before it hands this function on"
    try:
        graph = found.graph
    except FetchError as error:
        raise InvalidDodoFile(escape_lines(str(error))) from None
    yield from slim_tasks(graph.tasks())


_environ: Mapping[str, str] = {}


def use_environment(environ: Mapping[str, str]) -> None:
    """Let `read` return this environment: of the entry point, which reads it."""
    global _environ  # the one of this process
    _environ = environ


class GivenSettings(NamedTuple):
    """The three places of settings, as `Settings.parse` takes them, and warnings about tables that are not read."""

    variables: Mapping[str, Any]
    environ: Mapping[str, str]
    project: Mapping[str, Any]
    warnings: Sequence[str]


def read_configuration() -> GivenSettings:
    """Read the configuration; doit has changed to the directory of dodo.py by now.

    Raises:
        SettingError: pyproject.toml cannot be read or is not TOML, or `[tool.doit-fetch]` is not a table.
    """
    variables = {
        one.variable: get_var(one.variable)  # type: ignore[no-untyped-call]  # doit has no types
        for one in SETTINGS
        if one.variable
    }
    return GivenSettings(variables, _environ, *load_project(Path("pyproject.toml")))
