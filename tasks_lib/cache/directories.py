"""The directories of one cache: made when missing, believed when nobody else can write them.

Internal to the store. Thousands of small files ask for the same few: who may write one is looked at once a second, and
what goes into one that stands is just put there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from tasks_lib.cache.blobs import BlobDirectory
from tasks_lib.fs import files

#: Source: https://bford.info/cachedir/
_CACHEDIR_TAG: Final = "Signature: 8a477f597d28d172789f06886806bc55\n# cache of doit-fetch; may be deleted\n"
#: Seconds for which a directory is taken to be as it was.
_SEEN_S: Final = 1.0

Done = TypeVar("Done")


class Directories:
    """What stands below the root of a shelf; safe to use from any thread."""

    def __init__(self, shelf: BlobDirectory) -> None:
        self._shelf, self._root, self._options = shelf, shelf.root, shelf.options
        self._own: dict[str, tuple[Path, float]] = {}
        self._made: set[str] = set()

    def own(self, name: str) -> Path:
        """Return a directory of the store, made when missing.

        Raises:
            StoreUnavailableError: it cannot be made, or others can write it.
        """
        now = time.monotonic()
        path, until = self._own.get(name) or (self._shelf.top / name, 0.0)
        if now < until:
            return path
        with files.translated(path):
            if not path.is_dir():
                files.make_directory(path, self._root, self._options.durability)
                tag = self._root / "CACHEDIR.TAG"
                if not tag.exists():
                    files.append_text(tag, _CACHEDIR_TAG, "anew")
            self._options.trust.require(path, path.lstat())
        self._own[name] = path, now + _SEEN_S
        return path

    def inside(self, path: Path, durability: files.Durability, act: Callable[[], Done]) -> Done:
        """Return what `act` returns, which needs a directory below one of the store's: made when missing.

        Another process may have removed it since it was seen: then it is made again, and `act` called once more.

        Raises:
            OSError: the file system refused.
        """
        self._make(path, durability)
        try:
            return act()
        except FileNotFoundError:
            self._made.clear()
            self._make(path, durability)
            return act()

    def _make(self, path: Path, durability: files.Durability) -> None:
        if (place := str(path)) not in self._made:
            files.make_directory(path, self._root, durability)
            self._made.add(place)
