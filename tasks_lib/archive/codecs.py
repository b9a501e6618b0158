"""Compressed bytes -> bytes, strictly: to the real end, every checksum checked, memory and output bounded.

Several members, frames or streams are one content; padding that a format allows is accepted; truncation and trailing
garbage are damage. The wrappers of Python's own library hide some of that (faults.md sections 1.6 and 4).
"""

from __future__ import annotations

import bz2
import functools
import lzma
import queue
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO, Final, cast

from tasks_lib.archive.entries import Limits, damaged, limit, look

#: Bytes read at a time, and produced at a time.
CHUNK: Final = 1 << 18
_PRODUCED: Final = 1 << 18
#: Bytes that the slow decoders (bzip2, xz) produce at a time. CPython's ask for the interpreter's lock after 32, 64 and
#: 256 KiB of each piece. Who writes files gives it away at each of them, and the fewer ask for it the better: large
#: pieces. Who repacks holds it until done with a piece, in a third of the time that decoding it took: within a piece
#: of two blocks nobody waits. Measured: docs/decisions/0011.
LARGE: Final = 1 << 20
SMALL: Final = 96 << 10
#: Bytes of the first piece that a stream is given.
_FIRST: Final = 1 << 10
#: Chunks decoded ahead of whoever takes them.
_AHEAD: Final = 8

#: Least and most log2 of a zstd window that its library takes. Source: zstd.h, ZSTD_WINDOWLOG_ABSOLUTEMIN, _MAX_64.
_WINDOWS: Final = (10, 31)
#: Source: lzma/container.h, memlimit is a uint64_t.
_MOST_MEMORY: Final = (1 << 64) - 1
_SUFFIXES: Final = {
    ".tar": "tar",
    ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".crate": "tar.gz",
    ".tar.bz2": "tar.bz2", ".tbz2": "tar.bz2", ".tbz": "tar.bz2",
    ".tar.xz": "tar.xz", ".txz": "tar.xz",
    ".tar.zst": "tar.zst", ".tzst": "tar.zst", ".tar.zstd": "tar.zst",
    ".zip": "zip",
    ".deb": "deb",
}  # fmt: skip


def format_for(name: str) -> str | None:
    """Return the archive format that a file name declares, None for none."""
    lowered = name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if lowered.endswith(suffix)), None)


def decoded(source: BinaryIO, kind: str, limits: Limits, slow_piece: int = LARGE) -> Iterator[bytes]:
    """Yield the decompressed content of `source` in chunks, to its proven end.

    Args:
        source: the compressed bytes.
        kind: their format.
        limits: for memory and output.
        slow_piece: bytes that a slow decoder produces at a time: `LARGE` or `SMALL`.

    Raises:
        DamagedArchiveError: truncated, wrong checksum, trailing garbage, other bytes than `kind` says.
        ArchiveLimitError: too much output, or too large a window or dictionary.
    """
    allowed = limits.total_for(size_of(source))
    total = 0
    for chunk in _CODECS[kind](source, limits, slow_piece):
        total += len(chunk)
        if total > allowed:
            raise limit(f"more than {allowed} bytes decompressed ({limits.total_name(allowed)})", "TOO_LARGE")
        yield chunk


def beside(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Yield `chunks` while a thread makes the next ones; decoders release the interpreter lock.

    Closing it stops the thread, and waits for it: what `chunks` reads from may be closed then.

    Raises:
        whatever `chunks` raises.
    """
    made: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
    room = threading.Semaphore(_AHEAD)
    stopped = threading.Event()

    def work() -> None:
        try:
            for chunk in chunks:
                made.put(chunk)
                room.acquire()
                if stopped.is_set():
                    return
            made.put(None)
        except BaseException as error:
            made.put(error)

    thread = threading.Thread(target=work, name="decode", daemon=True)
    thread.start()
    try:
        while (chunk := made.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            room.release()
            yield chunk
    finally:
        stopped.set()
        room.release()
        thread.join()


def size_of(source: BinaryIO) -> int:
    """Return how many bytes follow in a seekable file."""
    here = source.tell()
    size = source.seek(0, 2) - here
    source.seek(here)
    return size


def _plain(source: BinaryIO, _limits: Limits, _piece: int) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk


class _Input:
    """Compressed bytes, fed in pieces that begin small: what follows a short stream is copied for each of them."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._piece = _FIRST
        self._hold(b"")

    def _hold(self, fed: bytes) -> None:
        self._fed, self._held = fed, memoryview(fed)

    def begin(self) -> None:
        """Say that a new stream begins here."""
        self._piece = _FIRST

    def next(self) -> memoryview:
        """Return the next piece, empty at the end."""
        if not self._held:
            self._hold(self._source.read(CHUNK))
        piece, self._held = self._held[: self._piece], self._held[self._piece :]
        self._piece = min(2 * self._piece, CHUNK)
        return piece

    def give_back(self, piece: bytes | memoryview) -> None:
        """Put back what was not used of the last piece."""
        if piece:
            start = len(self._fed) - len(self._held) - len(piece)
            self._held = memoryview(self._fed)[start:]

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end, without taking them."""
        while len(self._held) < size and (more := self._source.read(CHUNK)):
            self._hold(bytes(self._held) + more)
        return bytes(self._held[:size])

    def skip_zeros(self) -> int:
        """Take the zeros that stand here; return how many."""
        zeros = 0
        while self.peek(1) == b"\0":
            piece = bytes(self._held)
            count = len(piece) - len(piece.lstrip(b"\0"))
            zeros += count
            self._held = self._held[count:]
        return zeros


def _streams(source: BinaryIO, start: Callable[[], Any], magic: bytes, padding: int, most: int) -> Iterator[bytes]:
    """Decode one stream after the other.

    Args:
        source: the compressed bytes.
        start: gives a decoder for one stream.
        magic: what a stream begins with.
        padding: the unit in bytes of zeros allowed between and after streams, 0 for none.
        most: bytes that are produced at a time.
    """
    waiting = _Input(source)
    if waiting.peek(len(magic)) != magic:
        raise damaged(
            f"does not begin like this format; it looks like {look(waiting.peek(512))}", "WRONG_FORMAT", offset=0
        )
    while waiting.peek(1):
        yield from _stream(waiting, start(), most)
        zeros = waiting.skip_zeros() if padding else 0
        if (zeros and zeros % padding) or waiting.peek(len(magic)) not in (b"", magic):
            raise damaged("trailing garbage after the compressed data", "TRAILING_GARBAGE")


def _stream(waiting: _Input, decoder: Any, most: int) -> Iterator[bytes]:
    """Decode one stream; what follows it goes back to `waiting`."""
    waiting.begin()
    piece = waiting.next()
    while True:
        produced, unused = _step(decoder, piece, most)
        if produced:
            yield produced
        if decoder.eof:
            waiting.give_back(unused)
            return
        # zlib hands unused input back; the others say that they hold more output
        piece = memoryview(unused)
        if not piece and getattr(decoder, "needs_input", True):
            piece = waiting.next()
            if not piece:
                raise damaged("ends in the middle of the compressed data", "TRUNCATED")


def _step(decoder: Any, piece: bytes | memoryview, most: int) -> tuple[bytes, bytes]:
    """Decode a bounded piece; return it and the input that is still to come."""
    try:
        produced = decoder.decompress(piece, most)
    except (zlib.error, OSError, lzma.LZMAError, EOFError) as error:
        if "emory usage limit" in str(error):
            raise limit("needs more memory for its dictionary than xz-memlimit-mib allows", "DICTIONARY") from error
        raise damaged(f"damaged compressed data: {error}", "CORRUPT") from error
    if decoder.eof:
        return produced, decoder.unused_data
    return produced, getattr(decoder, "unconsumed_tail", b"")


def _gzip(source: BinaryIO, _limits: Limits, _piece: int) -> Iterator[bytes]:
    return _streams(source, lambda: zlib.decompressobj(wbits=31), b"\x1f\x8b", 1, _PRODUCED)


def _bzip2(source: BinaryIO, _limits: Limits, piece: int) -> Iterator[bytes]:
    return _streams(source, bz2.BZ2Decompressor, b"BZh", 0, piece)


def _xz(source: BinaryIO, limits: Limits, piece: int) -> Iterator[bytes]:
    memory = min(limits.xz_memlimit_mib << 20, _MOST_MEMORY)
    # xz-file-format 2.2: stream padding is a multiple of four zero bytes
    start = functools.partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=memory)
    return _streams(source, start, b"\xfd7zXZ\x00", 4, piece)


def _zstd(source: BinaryIO, limits: Limits, _piece: int) -> Iterator[bytes]:
    import zstandard  # loaded when there is something to decode

    framing = _ZstdFraming(source, limits)
    decompressor = zstandard.ZstdDecompressor(
        max_window_size=1 << min(max(limits.zstd_max_window_log, _WINDOWS[0]), _WINDOWS[1])
    )
    try:
        # its stub asks for a whole file, but it only ever calls read()
        with decompressor.stream_reader(cast("BinaryIO", framing), read_across_frames=True, closefd=False) as reader:
            while chunk := reader.read(_PRODUCED):
                yield chunk
    except zstandard.ZstdError as error:
        framing.judge_rest()
        raise damaged(f"damaged compressed data: {error}", "CORRUPT") from error


class _ZstdFraming:
    """Passes zstd bytes on while walking their frame and block headers.

    python-zstandard reports neither a truncated stream nor an unknown frame; walking the headers (RFC 8878 section 3)
    costs a few operations per 128 KiB block and makes both certain.
    """

    def __init__(self, source: BinaryIO, limits: Limits) -> None:
        self._source, self._limits = source, limits
        self._need = 4
        self._state: Callable[[bytes], None] = self._magic
        self._held = b""
        self._skip = 0
        self._checksum = 0
        self._frames = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes of the source, judged."""
        chunk = self._source.read(size if 0 < size < CHUNK else CHUNK)
        if not chunk:
            self.finish()
        self._walk(chunk)
        return chunk

    def judge_rest(self) -> None:
        """Refuse what stands after a frame and is no other one, even if it is too short to tell."""
        if self._frames and self._state == self._magic and self._held:
            raise damaged("trailing garbage after the compressed data", "TRAILING_GARBAGE")

    def finish(self) -> None:
        """Check that the source ended where a frame ended."""
        if not self._source.tell():
            raise damaged("does not begin like this format; it looks like an empty file", "WRONG_FORMAT", offset=0)
        if self._skip or self._held or self._state != self._magic or not self._frames:
            raise damaged("ends in the middle of the compressed data", "TRUNCATED")

    def _walk(self, chunk: bytes) -> None:
        position, end = 0, len(chunk)
        while position < end:
            if self._skip:
                step = min(self._skip, end - position)
                self._skip -= step
                position += step
                continue
            step = min(self._need - len(self._held), end - position)
            self._held += chunk[position : position + step]
            position += step
            if len(self._held) == self._need:
                held, self._held = self._held, b""
                self._state(held)

    def _then(self, need: int, state: Callable[[bytes], None]) -> None:
        self._need, self._state = need, state

    def _magic(self, held: bytes) -> None:
        number = int.from_bytes(held, "little")
        if number == 0xFD2FB528:
            self._then(1, self._descriptor)
        elif number & 0xFFFFFFF0 == 0x184D2A50:  # skippable frame
            self._then(4, self._skippable)
        elif not self._frames:
            raise damaged(f"does not begin like this format; it looks like {look(held)}", "WRONG_FORMAT", offset=0)
        else:
            raise damaged("trailing garbage after the compressed data", "TRAILING_GARBAGE")

    def _skippable(self, held: bytes) -> None:
        self._skip = int.from_bytes(held, "little")
        self._frames += 1
        self._then(4, self._magic)

    def _descriptor(self, held: bytes) -> None:
        flags = held[0]
        single = flags >> 5 & 1
        self._checksum = 4 * (flags >> 2 & 1)
        sizes = (single, 2, 4, 8)[flags >> 6]
        dictionary = (0, 1, 2, 4)[flags & 3]
        if dictionary:
            raise damaged("needs a dictionary that is not part of the archive", "DICTIONARY")
        self._single = single
        rest = (1 - single) + sizes
        self._then(rest, self._header)

    def _header(self, held: bytes) -> None:
        if self._single:
            window = int.from_bytes(held, "little") + (256 if len(held) == 2 else 0)
        else:
            exponent, mantissa = held[0] >> 3, held[0] & 7
            window = (1 << (10 + exponent)) * (8 + mantissa) // 8
        most = 1 << self._limits.zstd_max_window_log
        if window > most:
            raise limit(f"needs a window of {window} bytes, more than {most} (zstd-max-window-log)", "WINDOW")
        self._then(3, self._block)

    def _block(self, held: bytes) -> None:
        header = int.from_bytes(held, "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == 3:
            raise damaged("damaged compressed data: reserved block type", "CORRUPT")
        self._skip = 1 if kind == 1 else size
        if not last:
            self._then(3, self._block)
        elif self._checksum:
            # the checksum stands after the block: let the walker skip both at once
            self._skip += self._checksum
            self._end()
        else:
            self._end()

    def _end(self) -> None:
        self._frames += 1
        self._then(4, self._magic)


_CODECS: Final[dict[str, Callable[[BinaryIO, Limits, int], Iterator[bytes]]]] = {
    "tar": _plain,
    "tar.gz": _gzip,
    "tar.bz2": _bzip2,
    "tar.xz": _xz,
    "tar.zst": _zstd,
}
