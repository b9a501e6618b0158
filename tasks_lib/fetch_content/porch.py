"""The porch: the only module of the command that reads the environment, the arguments and the standard streams."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping

from tasks_lib.errors import escaped

_lock = threading.Lock()


def environment() -> Mapping[str, str]:
    """Return the process environment."""
    return dict(os.environ)


def arguments() -> list[str]:
    """Return the words of the command line."""
    return sys.argv[1:]


def log(message: str) -> None:
    """Write one line for whoever reads the task's log; standard output stays clean."""
    with _lock:
        sys.stderr.write("".join(f"{escaped(line)}\n" for line in message.split("\n")))
        sys.stderr.flush()
