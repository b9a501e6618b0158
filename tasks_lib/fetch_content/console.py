"""Environment, arguments and log: the only module of the command that accesses them directly."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tasks_lib.errors import escape_text

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

_lock = threading.Lock()


class SignalledError(BaseException):
    """A signal asked to stop; a BaseException, so that no `except Exception` swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def environment() -> Mapping[str, str]:
    """Return the process environment."""
    return dict(os.environ)


def task_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that Taskgraph's `run-task` leaves to the command of a task.

    Source: taskgraph 24.5.1, `run-task/run-task`, main() (described, never copied).
    """
    kept = {name: value for name, value in environ.items() if name not in _OWN}
    kept["TASK_WORKDIR"] = str(Path.cwd())
    for name in _PATHS:
        if name in kept:
            kept[name] = os.path.abspath(kept[name])  # noqa: PTH100  # like run-task: symlinks stay
    return kept


def arguments() -> list[str]:
    """Return the command-line arguments."""
    return sys.argv[1:]


def log(message: str) -> None:
    """Write a message to the task's log on stderr; standard output stays empty."""
    with _lock:
        sys.stderr.write("".join(f"{escape_text(line)}\n" for line in message.split("\n")))
        sys.stderr.flush()
