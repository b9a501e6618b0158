"""Unpacked trees: directories of the cache named by a key, each complete or absent.

Internal to the store, but for what `Store.trees` gives. What lies in such a directory is the business of `tree`; here
it gets its name once, is leased while somebody uses it, and is taken away.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tasks_lib.cache.blobs import BlobDirectory
from tasks_lib.cache.maintenance import delete
from tasks_lib.cache.usage import Usage
from tasks_lib.fs import files, locks, system_calls

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Trees:
    """The unpacked trees of one cache, and of the shared one below it."""

    def __init__(
        self, shelf: BlobDirectory, lower: BlobDirectory | None, usage: Usage, remove_tree: Callable[[Path], None]
    ) -> None:
        self._shelf, self._lower, self._usage, self._remove_tree = shelf, lower, usage, remove_tree

    def _place(self, shelf: BlobDirectory, key: str) -> Path:
        return shelf.top / "trees" / key[:2] / key

    def any(self) -> bool:
        """Whether the cache has ever held one."""
        return (self._shelf.top / "trees").is_dir()

    def holds(self, key: str) -> bool:
        """Whether a tree is here, by one stat; whether it still is, and can be used, its lease says."""
        return any(os.path.isdir(self._place(shelf, key)) for shelf in self._shelves)  # noqa: PTH112 - a stat, no Path

    @property
    def _shelves(self) -> tuple[BlobDirectory, ...]:
        return (self._shelf, *([self._lower] if self._lower else []))

    @contextlib.contextmanager
    def leased(self, key: str) -> Iterator[Path | None]:
        """Give the directory of a tree, which prune leaves alone meanwhile; None when there is none.

        Raises:
            StoreUnavailableError: others can write the cache.
        """
        for shelf in self._shelves:
            path = self._place(shelf, key)
            try:
                descriptor = os.open(path, _DIRECTORY)
            except OSError:
                continue
            try:
                locks.lease(descriptor)
                status = os.fstat(descriptor)
                if system_calls.is_same(descriptor, path) and not shelf.options.trust.objection(status):
                    self._usage.used(key, status.st_mtime)
                    yield path
                    return
            finally:
                os.close(descriptor)
        yield None

    def make(self, key: str, write: Callable[[Path], None]) -> None:
        """Let `write` fill an empty directory, and give it its name; hold `lock` of the key meanwhile.

        One that stands already stays. What a killed process left half-written under this key goes.

        Raises:
            StoreUnavailableError: the cache cannot be written.
            whatever `write` raises but OSError.
        """
        final = self._place(self._shelf, key)
        durability = self._shelf.options.durability
        staging = final.with_name(f"{key}.part")  # nobody else's: the key is locked
        with files.translated(staging):
            files.make_directory(final.parent, self._shelf.root, durability)
            self._shelf.options.trust.require(final.parent.parent, final.parent.parent.lstat())
            self._remove_tree(staging)
            if os.path.lexists(final):
                return
            staging.mkdir(mode=0o755)
            try:
                write(staging)
                if durability == "full":
                    system_calls.sync_tree(staging)
                staging.rename(final)
            except BaseException:
                self._remove_tree(staging)
                raise
            files.sync_directory(final.parent, durability)

    def drop(self, key: str) -> None:
        """Take a tree away that is not what it was; whoever places from it finds its files gone and begins anew.

        That of the shared cache, which is only read, is not used any more.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        self._lower = None
        path = self._place(self._shelf, key)
        with files.translated(path), contextlib.suppress(FileNotFoundError):
            delete(path, self._shelf.root, self._remove_tree)
