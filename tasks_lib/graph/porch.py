"""The porch for doit: builds the world of what the run is configured by, exposes the tasks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Final

from doit import doit_cmd
from doit.exceptions import InvalidDodoFile
from doit.task import Task

from tasks_lib.engine.base_command import SETTINGS_ONLY
from tasks_lib.engine.checker import MD5Checker
from tasks_lib.engine.configuration import Configuration
from tasks_lib.engine.slim_task import made
from tasks_lib.engine.state import stamp_of
from tasks_lib.errors import FetchError, escaped
from tasks_lib.session import House
from tasks_lib.settings import Settings, misspelt


def _house() -> House:
    """Return what this run is built of.

    Raises:
        InvalidDodoFile: a setting or the cache cannot be used; doit prints it in one line.
    """
    try:
        configuration = Configuration.read()
        house = House(Settings.parse(**configuration._asdict()), configuration.environ)
        # whoever left a stamp was here, and may answer alone; a path that cannot even be looked at is told by `enter`
        if not SETTINGS_ONLY.get() and not os.path.exists(stamp_of(str(house.database))):  # noqa: PTH110 - never raises
            house.enter()
    except FetchError as error:
        raise InvalidDodoFile(str(error)) from None
    # Source: doit 0.37, `doit_cmd.get_var`; it tells of one variable, and not which there are
    for line in misspelt(getattr(doit_cmd, "_CMDLINE_VARS", None) or (), configuration.environ):
        sys.stderr.write(f"warning: {escaped(line)}\n")
    return house


#: What this run is built of; the commands find it here.
HOUSE: Final = _house()

DOIT_CONFIG = {
    "minversion": "0.37.0",
    "default_tasks": ["toolchain", "repack", "fetch"],  # sinks first: downloads and extractions overlap
    "backend": "doit-fetch",
    "check_file_uptodate": MD5Checker,
    "dep_file": str(HOUSE.database),
    "num_process": HOUSE.settings.jobs,
    "par_type": "thread",
    "reporter": "fetch",
}


def task_fetchdefs() -> Iterator[Task]:
    """Yield every task of the definitions.

    Raises:
        InvalidDodoFile: the definitions are wrong; doit prints every problem.
    """
    try:
        graph = HOUSE.graph
    except FetchError as error:
        raise InvalidDodoFile(str(error)) from None
    yield from made(graph.tasks())
