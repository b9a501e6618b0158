"""The environment that Taskgraph's `run-task` leaves to the command of a task, without `run-task`.

Source: taskgraph 24.5.1, `run-task/run-task`, main() (described, never copied).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: Variables that name paths: run-task makes them absolute.
_PATHS: Final = (
    "CARGO_HOME",
    "GECKO_PATH",
    "MOZ_FETCHES_DIR",
    "MOZ_PYTHON_HOME",
    "MOZ_UV_HOME",
    "PIP_CACHE_DIR",
    "RUN_TASK_PRE_COMMAND_HOOK",
    "UPLOAD_DIR",
    "UV_CACHE_DIR",
    "npm_config_cache",
)
#: Variables for run-task itself, which it removes.
_OWN: Final = ("TASKCLUSTER_CACHES", "TASKCLUSTER_UNTRUSTED_CACHES", "TASKCLUSTER_VOLUMES")


def task_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the task's command."""
    kept = {name: value for name, value in environ.items() if name not in _OWN}
    kept["TASK_WORKDIR"] = str(Path.cwd())
    for name in _PATHS:
        if name in kept:
            kept[name] = os.path.abspath(kept[name])  # noqa: PTH100  # like run-task: symlinks stay
    return kept
