"""Measure bytes while they are written, and name them as a blob only when they match.

`BackgroundHash` computes the digest of a download in parallel with it if a core is free: hashlib releases the
interpreter lock, so that one thread receives and writes while another hashes.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import DigestMismatchError, SizeMismatchError
from tasks_lib.fs import atomic, files, system_calls

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


#: Minimum size in bytes for which a separate thread is worthwhile.
_LARGE: Final = 16 << 20
#: Bytes per batch, and most batches that wait for the hashing thread; their product is the memory use.
_BATCH: Final = 1 << 20
_AHEAD: Final = 4
#: One core is reserved for the downloads.
_FREE_CORES: Final = threading.Semaphore(system_calls.usable_cores() - 1)

Batch = list[bytes]


class BackgroundHash:
    """The digest of the chunks that one thread adds, in order; `close` ends it without a digest."""

    def __init__(self, algorithm: str, size: int) -> None:
        """Start a digest of about `size` bytes."""
        self._digest = hashlib.new(algorithm)
        self._large = size >= _LARGE
        self._batch: Batch = []
        self._bytes = 0
        self._thread: threading.Thread | None = None

    def update(self, chunk: bytes) -> None:
        """Add `chunk`."""
        if not self._large:
            self._digest.update(chunk)
            return
        self._batch.append(chunk)
        self._bytes += len(chunk)
        if self._bytes >= _BATCH:
            self._hand_over()

    def _hand_over(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        if self._thread is None and _FREE_CORES.acquire(blocking=False):
            self._batches: queue.Queue[Batch | None] = queue.Queue(_AHEAD)
            self._thread = threading.Thread(target=self._work, name="hash", daemon=True)
            self._thread.start()
        if self._thread is None:
            self._add(batch)
        else:
            self._batches.put(batch)

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            self._add(batch)

    def _add(self, batch: Batch) -> None:
        for chunk in batch:
            self._digest.update(chunk)

    def hexdigest(self) -> str:
        """Return the hex digest of all bytes so far."""
        self.close()
        self._add(self._batch)
        self._batch, self._bytes = [], 0
        return self._digest.hexdigest()

    def close(self) -> None:
        """Wait until the thread has hashed its batches, then end it; a later `update` may start another one."""
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join()
            self._thread = None
            _FREE_CORES.release()
