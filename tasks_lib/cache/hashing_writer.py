"""Write a download to its file and hash it, in parallel with receiving it if a core is free.

The system calls and hashlib release the interpreter lock, so that one thread receives while another writes and hashes.
Bytes are received into a few buffers that are used again: new memory for each megabyte costs 256 page faults.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from typing import Final

from tasks_lib.fs import system_calls
from tasks_lib.named import NamedTuple

#: Minimum size in bytes for which a separate thread is worthwhile.
_LARGE: Final = 16 << 20
#: Bytes of a buffer of the thread, and number of buffers; their product is the memory use. Buffers of a quarter of the
#: size cost a sixth more processor time.
_BUFFER: Final = 4 << 20
_BUFFERS: Final = 2
#: Bytes of the only buffer of a large download without a thread, and of a small one: many run at the same time.
_LARGE_READ: Final = 1 << 20
_SMALL_READ: Final = 256 << 10
#: A buffer of the thread is full when less space than this is left.
_LEAST_SPACE: Final = 256 << 10
#: One core is reserved for the downloads.
_FREE_CORES: Final = threading.Semaphore(system_calls.usable_cores() - 1)


class _Part(NamedTuple):
    """Bytes that belong at `offset` of the file (None: the file has them), and the buffer that is free after them."""

    content: memoryview
    offset: int | None
    buffer: memoryview | None


class HashingWriter:
    """Hashes bytes in order, and writes them with `write(offset, bytes)`; `close` ends its thread.

    The bytes are in the file when `close` or `hexdigest` returns, and soon after `flush`. After an error nothing more
    is written, so that the file never has a gap.
    """

    def __init__(self, algorithm: str, size: int, write: Callable[[int, memoryview], None]) -> None:
        """Start a digest of about `size` bytes."""
        self._digest = hashlib.new(algorithm)
        self._large, self._write = size >= _LARGE, write
        self._buffer: memoryview | None = None
        self._begin = self._end = 0  # of the bytes in the buffer that were not handed over
        self._offset: int | None = None
        self._made = 0
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def update(self, chunk: memoryview) -> None:
        """Hash bytes that are not to be written."""
        self._digest.update(chunk)

    def adopt(self, memory: memoryview, end: int) -> None:
        """Continue in `memory`, of which `end` bytes are hashed and written; the space after them may be in use."""
        if end < len(memory):
            self._buffer, self._begin, self._end = memory, end, end

    def fail(self, error: OSError) -> None:
        """Write nothing more, because the bytes before are not in the file; raise `error` from now on."""
        self._error = error

    def space(self, most: int) -> memoryview:
        """Return memory for 1 to `most` of the next bytes; `add` takes those that were put there.

        Raises:
            OSError: writing failed.
        """
        self._raise_error()
        if self._thread is None and self._large and self._begin == self._end and _FREE_CORES.acquire(blocking=False):
            self._start()
        if self._buffer is None:
            self._buffer = self._take_buffer()
        return self._buffer[self._end : self._end + most]

    def _take_buffer(self) -> memoryview:
        if self._thread is None:
            return memoryview(bytearray(_LARGE_READ if self._large else _SMALL_READ))
        if self._made == _BUFFERS or not self._free.empty():
            return self._free.get()
        self._made += 1
        return memoryview(bytearray(_BUFFER))

    def add(self, count: int, offset: int | None) -> None:
        """Add the first `count` bytes of the last `space`, which belong at `offset`; None if the file has them."""
        assert self._buffer is not None
        if self._begin == self._end:
            self._offset = offset
        self._end += count
        if self._thread is None or offset is None or len(self._buffer) - self._end < _LEAST_SPACE:
            self._hand_over(self._buffer)
            self._begin = self._end = 0
            if self._thread is not None or len(self._buffer) < _SMALL_READ:  # adopted, perhaps a single byte
                self._buffer = None

    def flush(self) -> None:
        """Write and hash what was added, now or soon; errors are raised later. The last `space` remains valid."""
        if self._begin != self._end:
            self._hand_over(None)

    def _hand_over(self, full: memoryview | None) -> None:
        assert self._buffer is not None
        part, self._begin = _Part(self._buffer[self._begin : self._end], self._offset, full), self._end
        if self._thread is None:
            self._finish(part)
        else:
            self._parts.put(part)

    def _start(self) -> None:
        self._parts: queue.SimpleQueue[_Part | None] = queue.SimpleQueue()
        self._release()
        self._thread = threading.Thread(target=self._work, name="hash", daemon=True)
        self._thread.start()

    def _release(self) -> None:
        """Release the memory now; a cycle of references may keep this object for a while."""
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._buffer, self._begin, self._end, self._made = None, 0, 0, 0

    def _work(self) -> None:
        while (part := self._parts.get()) is not None:
            self._finish(part)
            if part.buffer is not None:
                self._free.put(part.buffer)

    def _finish(self, part: _Part) -> None:
        """Write and hash a part, unless an earlier one failed."""
        if self._error is not None:
            return
        try:
            if part.offset is not None:
                self._write(part.offset, part.content)
            self._digest.update(part.content)
        except BaseException as error:  # raised in the thread that receives
            self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def hexdigest(self) -> str:
        """Return the hex digest of all bytes so far.

        Raises:
            OSError: writing failed.
        """
        self.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        """Wait until all bytes are written and hashed, then end the thread and release the memory; both can come again.

        Raises:
            OSError: writing failed.
        """
        self.flush()
        if self._thread is not None:
            self._parts.put(None)
            self._thread.join()
            self._thread = None
            _FREE_CORES.release()
        self._release()
        self._raise_error()
