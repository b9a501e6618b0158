"""Strict decompression: reads to the real end, verifies every checksum, and bounds memory and output.

Several members, frames or streams are concatenated. Padding that a format allows is accepted; truncation and trailing
garbage are errors. The wrappers in Python's standard library hide some of these errors (faults.md sections 1.6 and 4).
"""

from __future__ import annotations

import bz2
import functools
import lzma
import queue
import re
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO, Final, cast

import zstandard

from tasks_lib.archive.entries import check_trailing, damaged_archive, limit_exceeded, wrong_format
from tasks_lib.archive.zstd_frames import ZstdFraming
from tasks_lib.limits import Limits

#: Bytes read at a time, and produced at a time.
CHUNK: Final = 1 << 18
_PRODUCED: Final = 1 << 20
#: The same for zstd. Its decoder requests the GIL for each piece of either, and each request makes it or the writing
#: thread wait. Measured: docs/decisions/0010.
_ZSTD_READ: Final = 1 << 20
_ZSTD_PRODUCED: Final = 2 << 20
#: Bytes that the slow decoders (bzip2, xz) produce at a time. CPython's decoders request the GIL after 32, 64 and
#: 256 KiB of each piece. Extraction releases the GIL at each system call, so fewer requests are better: large pieces.
#: Repacking holds the GIL until a piece is finished, which takes a third of its decoding time: within a piece of two
#: blocks no thread waits. Measured: docs/decisions/0011.
LARGE_PIECE: Final = 1 << 20
SMALL_PIECE: Final = 96 << 10
#: Size in bytes of the first piece of input passed to a decoder.
_FIRST: Final = 1 << 10
#: Chunks decoded ahead of the consumer.
_AHEAD: Final = 3

#: Minimum and maximum log2 of the window size that libzstd accepts.
#: Source: zstd.h, ZSTD_WINDOWLOG_ABSOLUTEMIN, _MAX_64.
_WINDOWS: Final = (10, 31)
#: Source: lzma/container.h, memlimit is a uint64_t.
_MOST_MEMORY: Final = (1 << 64) - 1


#: The 13 bytes of a header: properties, dictionary size, and a size of unknown or less than 256 GiB, which together
#: distinguish it from most other content. Source: lzma-file-format 1.1; xz, `alone_decoder.c`.
_ALONE: Final = re.compile(rb"[\x00-\xe0].{4}(\xff{8}|.{4}[\x00-\x3f]\x00{3})", re.DOTALL)


def decompress(source: BinaryIO, kind: str, limits: Limits, slow_piece: int = LARGE_PIECE) -> Iterator[bytes]:
    """Yield the decompressed content of `source` in chunks, and verify that it is complete.

    Args:
        source: the compressed bytes.
        kind: their format.
        limits: limits for memory and output.
        slow_piece: bytes that a slow decoder produces at a time: `LARGE_PIECE` or `SMALL_PIECE`.

    Raises:
        DamagedArchiveError: the data is truncated, has a wrong checksum or trailing garbage, or is not in format
            `kind`.
        ArchiveLimitError: the output, the window or the dictionary is too large.
    """
    allowed = limits.max_total_for(remaining_size(source))
    total = 0
    for chunk in CODECS[kind](source, limits, slow_piece):
        total += len(chunk)
        if total > allowed:
            limit = limits.total_name(allowed)
            raise limit_exceeded(f"more than {allowed} bytes decompressed ({limit})", "TOO_LARGE", limit=limit)
        yield chunk


def read_ahead(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Yield `chunks` while a thread produces the next ones; decoders release the GIL.

    Closing the generator stops the thread and waits for it; afterwards the caller may close the input of `chunks`.

    Raises:
        Exception: any exception raised by `chunks`.
    """
    ready: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
    free: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike a semaphore, written in C
    for _ in range(_AHEAD):
        free.put(None)
    stopped = threading.Event()

    def work() -> None:
        try:
            for chunk in chunks:
                ready.put(chunk)
                free.get()
                if stopped.is_set():
                    return
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=work, name="decode", daemon=True)
    thread.start()
    try:
        while (chunk := ready.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            free.put(None)
            yield chunk
    finally:
        stopped.set()
        free.put(None)
        thread.join()


def remaining_size(source: BinaryIO) -> int:
    """Return the number of bytes from the current position to the end of a seekable file."""
    here = source.tell()
    size = source.seek(0, 2) - here
    source.seek(here)
    return size


def _plain(source: BinaryIO, _limits: Limits, _piece: int) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk


class _Input:
    """Compressed input, read in pieces that start small.

    A decoder copies the input that follows its stream, so large pieces would make short streams slow.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._piece = _FIRST
        self._hold(b"")

    def _hold(self, fed: bytes) -> None:
        self._fed, self._held = fed, memoryview(fed)

    def begin(self) -> None:
        """Start a new stream: the next piece is small again."""
        self._piece = _FIRST

    def next(self) -> memoryview:
        """Return the next piece, empty at the end."""
        if not self._held:
            self._hold(self._source.read(CHUNK))
        piece, self._held = self._held[: self._piece], self._held[self._piece :]
        self._piece = min(2 * self._piece, CHUNK)
        return piece

    def give_back(self, piece: bytes | memoryview) -> None:
        """Put back the unused end of the last piece."""
        if piece:
            start = len(self._fed) - len(self._held) - len(piece)
            self._held = memoryview(self._fed)[start:]

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end, without consuming them."""
        while len(self._held) < size and (more := self._source.read(CHUNK)):
            self._hold(bytes(self._held) + more)
        return bytes(self._held[:size])

    def skip_zeros(self) -> int:
        """Skip the zeros at the current position; return their number."""
        zeros = 0
        while self.peek(1) == b"\0":
            piece = bytes(self._held)
            count = len(piece) - len(piece.lstrip(b"\0"))
            zeros += count
            self._held = self._held[count:]
        return zeros


def _streams(
    source: BinaryIO, start: Callable[[], Any], magic: bytes, padding: int, most: int, trailing: str
) -> Iterator[bytes]:
    """Decode concatenated streams.

    Args:
        source: the compressed bytes.
        start: returns a decoder for one stream.
        magic: the first bytes of each stream.
        padding: zeros are allowed between and after streams in multiples of this number of bytes.
        most: maximum number of bytes produced at a time.
        trailing: "refuse", or "ignore" other bytes after a stream.
    """
    waiting = _Input(source)
    if waiting.peek(len(magic)) != magic:
        raise wrong_format(waiting.peek(512))
    while waiting.peek(1):
        yield from _stream(waiting, start(), most)
        zeros = waiting.skip_zeros()
        following = waiting.peek(len(magic))
        if zeros % padding or following not in (b"", magic):
            check_trailing(following, (magic,), trailing)
            return


def _stream(waiting: _Input, decoder: Any, most: int) -> Iterator[bytes]:
    """Decode one stream; return the input that follows it to `waiting`."""
    waiting.begin()
    piece = waiting.next()
    while True:
        produced, unused = _decode_piece(decoder, piece, most)
        if produced:
            yield produced
        if decoder.eof:
            waiting.give_back(unused)
            return
        # zlib returns unused input; the other decoders keep it and report that they have more output
        piece = memoryview(unused)
        if not piece and getattr(decoder, "needs_input", True):
            piece = waiting.next()
            if not piece:
                raise damaged_archive("truncated in the middle of the compressed data", "TRUNCATED")


def _decode_piece(decoder: Any, piece: bytes | memoryview, most: int) -> tuple[bytes, bytes]:
    """Decode a bounded piece; return it and the unused input."""
    try:
        produced = decoder.decompress(piece, most)
    except (zlib.error, OSError, lzma.LZMAError, EOFError) as error:
        if "emory usage limit" in str(error):
            raise limit_exceeded(
                "the dictionary needs more memory than xz-memlimit-mib allows", "DICTIONARY"
            ) from error
        raise damaged_archive(f"damaged compressed data: {error}", "CORRUPT") from error
    if decoder.eof:
        return produced, decoder.unused_data
    return produced, getattr(decoder, "unconsumed_tail", b"")


def _gzip(source: BinaryIO, limits: Limits, _piece: int) -> Iterator[bytes]:
    return _streams(source, lambda: zlib.decompressobj(wbits=31), b"\x1f\x8b", 1, _PRODUCED, limits.trailing)


def _bzip2(source: BinaryIO, limits: Limits, piece: int) -> Iterator[bytes]:
    return _streams(source, bz2.BZ2Decompressor, b"BZh", 1, piece, limits.trailing)


def _xz(source: BinaryIO, limits: Limits, piece: int) -> Iterator[bytes]:
    memory = min(limits.xz_memlimit_mib << 20, _MOST_MEMORY)
    # xz-file-format 2.2: stream padding is a multiple of four zero bytes
    start = functools.partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=memory)
    return _streams(source, start, b"\xfd7zXZ\x00", 4, piece, limits.trailing)


def _lzma(source: BinaryIO, limits: Limits, piece: int) -> Iterator[bytes]:
    """Decode the format that preceded xz, which has one stream and no checksum."""
    waiting = _Input(source)
    if not _ALONE.match(waiting.peek(13)):
        raise wrong_format(waiting.peek(512))
    memory = min(limits.xz_memlimit_mib << 20, _MOST_MEMORY)
    yield from _stream(waiting, lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=memory), piece)
    if waiting.peek(1):
        check_trailing(b"", (), limits.trailing)


def _zstd(source: BinaryIO, limits: Limits, _piece: int) -> Iterator[bytes]:
    framing = ZstdFraming(source, limits)
    decompressor = zstandard.ZstdDecompressor(
        max_window_size=1 << min(max(limits.zstd_max_window_log, _WINDOWS[0]), _WINDOWS[1])
    )
    try:
        # the stub requires a BinaryIO, but the library only calls read()
        with decompressor.stream_reader(
            cast("BinaryIO", framing), read_size=_ZSTD_READ, read_across_frames=True, closefd=False
        ) as reader:
            while chunk := reader.read(_ZSTD_PRODUCED):
                yield chunk
    except zstandard.ZstdError as error:
        raise damaged_archive(f"damaged compressed data: {error}", "CORRUPT") from error


#: Decoders by format.
CODECS: Final[dict[str, Callable[[BinaryIO, Limits, int], Iterator[bytes]]]] = {
    "tar": _plain,
    "tar.gz": _gzip,
    "tar.bz2": _bzip2,
    "tar.xz": _xz,
    "tar.lzma": _lzma,
    "tar.zst": _zstd,
}
