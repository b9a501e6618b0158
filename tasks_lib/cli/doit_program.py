"""doit as a part of the program `doit-fetch`: in the directory of the project, also without a dodo.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

from doit.cmd_base import NamespaceTaskLoader
from doit.doit_cmd import DoitMain

import doit_fetch
from tasks_lib.engine.base_command import IS_OWN_PROGRAM, SETTINGS_ONLY, STARTED_IN
from tasks_lib.errors import FetchError
from tasks_lib.incremental.path_notes import find_project
from tasks_lib.settings import load_project

#: Commands of doit that create nothing, not even the directory of the cache.
_READING: Final = ("adopt",)


class _BuiltinLoader(NamespaceTaskLoader):  # type: ignore[misc,unused-ignore]  # doit has no types
    """Loader with the names of the dodo.py that `doit-fetch init` writes."""

    def setup(self, _options: object) -> None:
        """Set the names: the settings of the command line are known by now."""
        self.namespace = {name: getattr(doit_fetch, name) for name in ("DOIT_CONFIG", "task_fetchdefs")}


def run_doit(words: list[str]) -> int:
    """Run a command line of doit; return its exit status."""
    if "" in words:  # doit ends with a traceback
        sys.stderr.write("ERROR: a word of the command line is empty\ncheck the variables from which it comes\n")
        return 3
    STARTED_IN.set(os.getcwd())  # noqa: PTH109  # paths on the command line are relative to it
    SETTINGS_ONLY.set(words[0] in _READING)
    os.chdir(find_project(STARTED_IN.get()))
    try:
        load_project(Path("pyproject.toml"))  # doit reads it first, and ends with a traceback if it is not TOML
    except FetchError as error:
        sys.stderr.write(f"ERROR: {error}\n")
        return 3
    IS_OWN_PROGRAM.set(True)
    main: Any = DoitMain  # doit has no types
    builtin: Any = _BuiltinLoader
    return int(main(None if Path("dodo.py").exists() else builtin()).run(words) or 0)
