"""Run the command of a task in the environment that Taskgraph's `run-task` leaves, without `run-task`.

Source: taskgraph 24.5.1, `run-task/run-task`, main() and run_command() (described, never copied).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
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
#: Exit statuses of a command that does not exist and of one that cannot be executed. Source: POSIX, `env`, EXIT STATUS.
_MISSING, _NOT_EXECUTABLE = 127, 126


def task_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the task's command."""
    kept = {name: value for name, value in environ.items() if name not in _OWN}
    kept["TASK_WORKDIR"] = str(Path.cwd())
    for name in _PATHS:
        if name in kept:
            kept[name] = os.path.abspath(kept[name])  # noqa: PTH100  # like run-task: symlinks stay
    return kept


def replace_process(command: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Replace this process by a command, with every signal at its default; return a status and a reason on failure."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):  # signals of the C library's threads
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(command[0], list(command), dict(environ))
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING, "command not found"
    except OSError as error:
        return _NOT_EXECUTABLE, error.strerror or str(error)
