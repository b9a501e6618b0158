"""What stands in a shared directory and is not wanted there any more: of earlier versions, or of who worked there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tasks_lib.errors import CacheUnavailableError
from tasks_lib.fs.locks import locked
from tasks_lib.progress import Progress, Silent
from tasks_lib.tree.extraction import Extraction, translated
from tasks_lib.tree.manifest import stems
from tasks_lib.tree.writer import remove_tree

#: The files of a slot but its lock: a record, one whose entries come or go, and what is left of a delivery.
_SUFFIXES: Final = (".json", ".moving", ".part", ".new", ".next")


def drop_strays(destination: Path, records: Path, kept: Collection[str], timeout_s: float, progress: Progress) -> None:
    """Remove what slots put there that nobody asks for any more; what one that is kept has too stays.

    Args:
        destination: where those put it whose record does not say.
        records: the directory of the records.
        kept: names of the slots that are still asked for.
        timeout_s: seconds to wait for another process.
        progress: told of waiting.

    Raises:
        StoreUnavailableError, TreeError, CancelledError: as `Extraction.held`.
    """
    with translated(destination):
        if not stems(records, *_SUFFIXES).difference(kept):
            return
        with locked(records / ".lock", timeout_s=timeout_s, progress=progress):
            _drop(destination, records, stems(records, *_SUFFIXES).difference(kept))


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
        StoreUnavailableError, TreeError, CancelledError: as `Extraction.held`.
    """
    if not os.path.lexists(worked):
        return
    with translated(destination):
        records.mkdir(parents=True, exist_ok=True)
        with locked(records / ".lock", timeout_s=timeout_s, progress=progress):
            if not os.path.lexists(worked):
                return  # another one began anew, and has put something there since
            for name in stems(records, ".json", ".moving"):
                Extraction(destination, records / f"{name}.json").forget()
            if destination.is_symlink() or destination.is_file():
                destination.unlink()
            remove_tree(destination)
            worked.unlink()


def _drop(destination: Path, records: Path, names: Collection[str]) -> None:
    """Remove what slots put somewhere; what the others own is looked for once for all of them.

    Raises:
        OSError: the file system refused; the next call goes on.
    """
    kept = (Extraction(destination, records / f"{name}.json") for name in stems(records, ".json").difference(names))
    others = frozenset(path for slot in kept for path in slot.owned())
    for name in sorted(names):
        slot = Extraction(destination, records / f"{name}.json")
        slot.recover(others)
        slot.withdraw(others)
        # another process may deliver it at this moment, for definitions of its own
        with contextlib.suppress(CacheUnavailableError), locked(slot.lock, timeout_s=0, progress=Silent()):
            slot.sweep()
            slot.lock.unlink(missing_ok=True)  # whoever waits for it takes it anew
