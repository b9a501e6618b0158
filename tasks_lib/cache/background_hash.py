"""Digest of a download, computed in parallel with it if a core is free.

Internal to the cache. hashlib releases the interpreter lock, so that one thread can receive and write while another
hashes. If all cores are busy, the calling thread computes the digest, at the same cost as without this module.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from typing import Final

from tasks_lib.fs import system_calls

#: Minimum size in bytes for which a separate thread is worthwhile.
_LARGE: Final = 16 << 20
#: Bytes per batch, and most batches that wait for the hashing thread; their product is the memory use.
_BATCH: Final = 1 << 20
_AHEAD: Final = 4
#: One core is reserved for the downloads.
_FREE: Final = threading.Semaphore(system_calls.usable_cores() - 1)

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
        if self._thread is None and _FREE.acquire(blocking=False):
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
            _FREE.release()
