"""Read what a run is configured by: words of doit's command line, the environment, and the project's table.

Beside `fetch_content.porch` the only module that reads `os.environ`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from doit import get_var

from tasks_lib.settings import SETTINGS, project_table


class Configuration(NamedTuple):
    """The three places of settings, as `Settings.parse` takes them."""

    variables: Mapping[str, Any]
    environ: Mapping[str, str]
    project: Mapping[str, Any]

    @classmethod
    def read(cls) -> Configuration:
        """Return what stands there; doit is in the directory of dodo.py by now.

        Raises:
            SettingError: pyproject.toml is not TOML, or `[tool.doit-fetch]` is not a table.
        """
        variables = {
            one.variable: get_var(one.variable)  # type: ignore[no-untyped-call]  # doit has no types
            for one in SETTINGS
            if one.variable
        }
        return cls(variables, dict(os.environ), project_table(Path("pyproject.toml")))
