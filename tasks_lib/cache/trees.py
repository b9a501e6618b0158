"""Extracted trees: directories of the cache named by a key, each complete or absent.

Internal to the cache, except for the object that `Cache.trees` returns. The package `tree` defines the content of such
a directory. This module names it once, leases it while it is in use, and removes it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tasks_lib.cache.blobs import BlobDirectory
from tasks_lib.cache.cache import Cache
from tasks_lib.fs import atomic, files, locks, system_calls
from tasks_lib.fs.directories import remove_tree
from tasks_lib.fs.trust import FORMAT

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Trees:
    """The extracted trees of a cache and of the shared cache behind it."""

    def __init__(self, cache: Cache) -> None:
        self._blobs, self._lower, self._usage = cache.blob_directory, cache.lower, cache.usage

    def _place(self, one: BlobDirectory, key: str) -> Path:
        return one.top / "trees" / key[:2] / key

    def any(self) -> bool:
        """Return whether the cache contains, or once contained, a tree."""
        return (self._blobs.top / "trees").is_dir()

    def holds(self, key: str) -> bool:
        """Return whether a tree exists, by one stat; only `leased` shows whether it can be used."""
        return any(os.path.isdir(self._place(one, key)) for one in self._blob_directories)  # noqa: PTH112 - a stat, no Path

    @property
    def _blob_directories(self) -> tuple[BlobDirectory, ...]:
        return (self._blobs, *([self._lower] if self._lower else []))

    @contextlib.contextmanager
    def leased(self, key: str) -> Iterator[Path | None]:
        """Yield the directory of a tree, None if it does not exist; prune keeps it meanwhile.

        Raises:
            CacheUnavailableError: untrusted users can write to the cache.
        """
        for one in self._blob_directories:
            path = self._place(one, key)
            try:
                descriptor = os.open(path, _DIRECTORY)
            except OSError:
                continue
            try:
                locks.lease(descriptor)
                status = os.fstat(descriptor)
                if system_calls.is_same(descriptor, path) and not one.options.trust.objection(status):
                    self._usage.used(key, status.st_mtime)
                    yield path
                    return
            finally:
                os.close(descriptor)
        yield None

    def make(self, key: str, write: Callable[[Path], None]) -> None:
        """Call `write` to fill an empty directory, then rename it to its name; the caller holds `lock` of the key.

        An existing tree stays. An incomplete tree that a killed process left under this key is removed.

        Raises:
            CacheUnavailableError: the cache is not writable.
            Exceptions of `write` other than OSError.
        """
        final = self._place(self._blobs, key)
        durability = self._blobs.options.durability
        staging = final.with_name(f"{key}.part")  # no other process uses it: the key is locked
        with files.convert_os_errors(staging):
            files.make_directory(final.parent, self._blobs.root, durability)
            self._blobs.options.trust.require(final.parent.parent, final.parent.parent.lstat())
            remove_tree(staging)
            if os.path.lexists(final):
                return
            staging.mkdir(mode=0o755)
            try:
                write(staging)
                if durability == "full":
                    system_calls.sync_tree(staging)
                staging.rename(final)
            except BaseException:
                remove_tree(staging)
                raise
            files.sync_directory(final.parent, durability)

    def drop(self, key: str) -> None:
        """Remove a damaged tree; a process that links or copies from it finds files missing and starts again.

        The shared cache is read-only, so its trees are no longer used instead.

        Raises:
            CacheUnavailableError: the cache is not writable.
        """
        self._lower = None
        path = self._place(self._blobs, key)
        with files.convert_os_errors(path), contextlib.suppress(FileNotFoundError):
            delete(path, self._blobs.root)


def delete(directory: Path, root: Path) -> None:
    """Rename a directory to a temporary name, then remove it, so that readers never see part of it.

    Raises:
        OSError: the file system rejects the operation.
    """
    aside = root / FORMAT / "tmp" / atomic.scratch_name()
    files.make_directory(aside.parent, root)
    directory.rename(aside)
    remove_tree(aside)
