"""Read what a run is configured by: words of doit's command line, the environment, and the project's table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from doit import get_var

from tasks_lib.settings import SETTINGS, project_table

_environ: Mapping[str, str] = {}


def use_environment(environ: Mapping[str, str]) -> None:
    """Let `read` return this environment: of the entry point, which reads it."""
    global _environ  # the one of this process
    _environ = environ


class Configuration(NamedTuple):
    """The three places of settings, as `Settings.parse` takes them."""

    variables: Mapping[str, Any]
    environ: Mapping[str, str]
    project: Mapping[str, Any]


def read() -> Configuration:
    """Return what stands there; doit is in the directory of dodo.py by now.

    Raises:
        SettingError: pyproject.toml is not TOML, or `[tool.doit-fetch]` is not a table.
    """
    variables = {
        one.variable: get_var(one.variable)  # type: ignore[no-untyped-call]  # doit has no types
        for one in SETTINGS
        if one.variable
    }
    return Configuration(variables, _environ, project_table(Path("pyproject.toml")))
