"""What a project's dodo.py imports: `from doit_fetch import DOIT_CONFIG, task_fetchdefs`.

Importing this module loads nothing else. doit and the implementation (`tasks_lib`) are loaded when one of the two names
is asked for. Besides `tasks_lib.fetch_content`, this is the only module that reads the environment.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["DOIT_CONFIG", "task_fetchdefs"]  # noqa: F822  # made by __getattr__


def __getattr__(name: str) -> Any:
    """Load the definitions' tasks and doit's configuration on first use. Source: PEP 562.

    Raises:
        AttributeError: this module has no such name.
        doit.exceptions.InvalidDodoFile: a setting or the cache cannot be used.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tasks_lib.engine import dodo

    globals().update(DOIT_CONFIG=dodo.start(os.environ), task_fetchdefs=dodo.task_fetchdefs)
    return globals()[name]
