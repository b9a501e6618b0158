"""Measure bytes while they are written, and name them as a blob only when they match."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import DigestMismatchError, SizeMismatchError
from tasks_lib.fs import atomic, files

Name = Callable[[int, Path | None, Integrity], None]


class Writer:
    """A blob that is being written; created by `Cache.writer`."""

    def __init__(self, root: Path, temporary: atomic.Temporary, durability: files.Durability, name: Name) -> None:
        self._root, self._temporary, self._durability, self._name = root, temporary, durability, name
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> int:
        """Write and hash `chunk`; return its length.

        Raises:
            CacheUnavailableError: no space, or another error of the file system.
        """
        with files.convert_os_errors(self._root, self.size + len(chunk)):
            self._temporary.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)
        return len(chunk)

    @property
    def digest(self) -> Digest:
        """The sha256 digest of the bytes written so far."""
        return Digest.sha256(self._digest.hexdigest())

    def commit(self, expected: Integrity | None = None) -> Integrity:
        """Publish the written bytes as a blob and return its integrity.

        Raises:
            SizeMismatchError, DigestMismatchError: the bytes do not match `expected`; nothing is published.
            CacheUnavailableError: the file system rejects the operation.
        """
        actual = Integrity(size=self.size, digest=self.digest)
        if expected is not None and actual != expected:
            _raise_mismatch(expected, actual)
        with files.convert_os_errors(self._root, self.size):
            self._temporary.finish(self._durability)
            self._name(self._temporary.descriptor, self._temporary.path, actual)
        return actual


def _raise_mismatch(expected: Integrity, actual: Integrity) -> None:
    if expected.size != actual.size:
        raise SizeMismatchError(
            f"expected {expected.size} bytes, got {actual.size}", expected=expected.size, actual=actual.size
        )
    raise DigestMismatchError(
        f"expected {expected.digest}, got {actual.digest}",
        expected=str(expected.digest),
        actual=str(actual.digest),
    )
