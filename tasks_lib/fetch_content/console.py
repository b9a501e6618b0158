"""Environment, arguments and log: the only module of the command that accesses them directly."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping

from tasks_lib.errors import escape_text

_lock = threading.Lock()


def environment() -> Mapping[str, str]:
    """Return the process environment."""
    return dict(os.environ)


def arguments() -> list[str]:
    """Return the command-line arguments."""
    return sys.argv[1:]


def log(message: str) -> None:
    """Write a message to the task's log on stderr; standard output stays empty."""
    with _lock:
        sys.stderr.write("".join(f"{escape_text(line)}\n" for line in message.split("\n")))
        sys.stderr.flush()
