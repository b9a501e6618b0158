"""Private directories beside a destination in which trees are made, and what killed deliveries left of them."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

from tasks_lib.fs.system_calls import current_umask
from tasks_lib.tree.writer import remove_tree

#: How often a directory is made again that another slot removed because it was empty.
_TRIES: Final = 20


def make(staging: Path) -> None:
    """Make a private directory; another slot that is cleared may take the empty parent away meanwhile.

    Raises:
        OSError: the file system refused.
    """
    for _ in range(_TRIES):
        staging.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            staging.mkdir(mode=0o700)
            return
    staging.mkdir(mode=0o700)


def open_up(staging: Path) -> None:
    """Let others read what was made, as far as the umask lets them.

    Raises:
        OSError: the file system refused.
    """
    staging.chmod(0o755 & ~current_umask())


def sweep(directory: Path, name: str) -> None:
    """Remove the files and trees of a directory whose names match the pattern `name`, as far as they can be."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        left = [Path(entry.path) for entry in entries if re.fullmatch(name, entry.name)]
        for path in left:
            if path.is_dir():
                remove_tree(path)
            else:
                path.unlink()
