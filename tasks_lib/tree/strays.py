"""What stands in a shared directory and is not wanted there any more: of earlier versions, or of who worked there."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from tasks_lib.progress import Progress
from tasks_lib.store import locked
from tasks_lib.tree.slot import Slot, translated
from tasks_lib.tree.writer import remove_tree


def drop_strays(destination: Path, records: Path, kept: Collection[str], timeout_s: float, progress: Progress) -> None:
    """Remove what slots put there that nobody asks for any more; what one that is kept has too stays.

    Args:
        destination: where those put it whose record does not say.
        records: the directory of the records.
        kept: names of the slots that are still asked for.
        timeout_s: seconds to wait for another process.
        progress: told of waiting.

    Raises:
        StoreUnavailableError, TreeError, CancelledError: as `Slot.held`.
    """
    with translated(destination):
        if not _strays(records, kept):
            return
        with locked(records / ".lock", timeout_s=timeout_s, progress=progress):
            for record in _strays(records, kept):
                Slot(destination, record).drop()


def start_over(destination: Path, records: Path, worked: Path, timeout_s: float, progress: Progress) -> None:
    """Remove all that stands where somebody has worked, with what they left; each record then names nothing.

    The records stay as files, since they are what doit looks for.

    Args:
        destination: the directory that goes as a whole.
        records: the directory of the records of what was put there.
        worked: the file that says that somebody worked there; without it nothing happens. It goes last.
        timeout_s: seconds to wait for another process.
        progress: told of waiting.

    Raises:
        StoreUnavailableError, TreeError, CancelledError: as `Slot.held`.
    """
    if not os.path.lexists(worked):
        return
    with translated(destination):
        records.mkdir(parents=True, exist_ok=True)
        with locked(records / ".lock", timeout_s=timeout_s, progress=progress):
            if not os.path.lexists(worked):
                return  # another one began anew, and has put something there since
            for record in _strays(records, ()):
                Slot(destination, record).forget()
            if destination.is_symlink() or destination.is_file():
                destination.unlink()
            remove_tree(destination)
            worked.unlink()


def _strays(records: Path, kept: Collection[str]) -> list[Path]:
    """Return the records of slots that are not kept, those too of which a killed removal left something."""
    found = {one.with_suffix(".json") for one in records.glob("*") if one.suffix in (".json", ".moving")}
    return sorted(one for one in found if one.stem not in kept)
