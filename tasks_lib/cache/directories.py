"""The directories of one cache: created on demand, and used only if untrusted users cannot write to them.

Internal to the cache. Thousands of small files use the same few directories. Permissions are therefore checked at most
once a second, and a directory that is known to exist is used without a check.
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
#: Seconds for which a check of a directory is valid.
_CHECK_VALID_S: Final = 1.0

Written = TypeVar("Written")


class Directories:
    """The directories below the root of a cache; thread-safe."""

    def __init__(self, blobs: BlobDirectory) -> None:
        self._blobs, self._root, self._options = blobs, blobs.root, blobs.options
        self._own: dict[str, tuple[Path, float]] = {}
        self._made: set[str] = set()

    def own(self, name: str) -> Path:
        """Return a directory of the cache; create it if it is missing.

        Raises:
            CacheUnavailableError: it cannot be created, or untrusted users can write to it.
        """
        now = time.monotonic()
        path, until = self._own.get(name) or (self._blobs.top / name, 0.0)
        if now < until:
            return path
        with files.convert_os_errors(path):
            if not path.is_dir():
                files.make_directory(path, self._root, self._options.durability)
                tag = self._root / "CACHEDIR.TAG"
                if not tag.exists():
                    files.append_text(tag, _CACHEDIR_TAG, "anew")
            self._options.trust.require(path, path.lstat())
        self._own[name] = path, now + _CHECK_VALID_S
        return path

    def make(self, place: str, durability: files.Durability) -> None:
        """Create a directory, unless it is known to exist.

        Raises:
            OSError: the file system rejects the operation.
        """
        if place not in self._made:
            files.make_directory(place, self._root, durability)
            self._made.add(place)

    def write(self, place: str, durability: files.Durability, write: Callable[[], Written]) -> Written:
        """Create a directory, and return what `write`, which creates a file there, returns.

        Raises:
            OSError: the file system rejects the operation.
        """
        self.make(place, durability)
        try:
            return write()
        except FileNotFoundError:  # prune removed the directory
            self._made.clear()
            self.make(place, durability)
            return write()
