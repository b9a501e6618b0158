"""Where doit is started: loading a dodo.py needs that directory, wherever the dodo.py is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from doit.exceptions import InvalidCommand


def set_up(loader: Any, params: Any) -> None:
    """Let doit's loader load the dodo.py.

    Raises:
        InvalidCommand: the directory in which doit was started is gone; doit prints it.
        whatever the dodo.py raises.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        told = "the directory in which doit was started was removed\nchange into one that is there, and run again"
        raise InvalidCommand(told) from None  # type: ignore[no-untyped-call]  # doit has no types
    loader.setup(params)
