"""A digest that is computed beside the download it measures, on a core that is free.

Internal to the store. hashlib lets go of the interpreter lock, so that one thread can receive and write while another
hashes; where all cores have work the digest is computed in place, and nothing is gained or lost.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from typing import Final

from tasks_lib.fs import system_calls

#: Bytes from which a thread of its own pays.
_LARGE: Final = 16 << 20
#: Bytes that are handed over at once, and how often that is done ahead of the hashing: the memory that it costs.
_BATCH: Final = 1 << 20
_AHEAD: Final = 4
#: One core is for the downloads.
_FREE: Final = threading.Semaphore(system_calls.usable_cores() - 1)

Batch = list[bytes]


class BackgroundHash:
    """The digest of what one thread tells it, in order; `close` ends it when nobody asks for the digest."""

    def __init__(self, algorithm: str, size: int) -> None:
        """Begin; about `size` bytes will come."""
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
        """Return the digest of everything so far."""
        self.close()
        self._add(self._batch)
        self._batch, self._bytes = [], 0
        return self._digest.hexdigest()

    def close(self) -> None:
        """End the thread, once it hashed what it has; what comes later may begin another."""
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join()
            self._thread = None
            _FREE.release()
