"""Compressed bytes -> bytes, strictly: to the real end, every checksum checked, memory and output bounded.

Several members, frames or streams are one content; padding that a format allows is accepted; truncation and trailing
garbage are damage. The wrappers of Python's own library hide some of that (faults.md sections 1.6 and 4).
"""

from __future__ import annotations

import bz2
import lzma
import queue
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO, Final, cast

from tasks_lib.archive.entries import Limits, damaged, limit

#: Bytes read at a time, and produced at a time.
CHUNK: Final = 1 << 18
_PRODUCED: Final = 1 << 20
#: Chunks decoded ahead of whoever takes them.
_AHEAD: Final = 4

#: First bytes of what is supported. Source: RFC 1952 2.3.1, bzip2 format, xz-file-format 2.1.1.1, RFC 8878 3.1.1,
#: APPNOTE 4.3.7 and 4.3.16.
MAGIC: Final = (
    (b"\x1f\x8b", "tar.gz"),
    (b"BZh", "tar.bz2"),
    (b"\xfd7zXZ\x00", "tar.xz"),
    (b"\x28\xb5\x2f\xfd", "tar.zst"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
)
_SUFFIXES: Final = {
    ".tar": "tar",
    ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".crate": "tar.gz",
    ".tar.bz2": "tar.bz2", ".tbz2": "tar.bz2", ".tbz": "tar.bz2",
    ".tar.xz": "tar.xz", ".txz": "tar.xz",
    ".tar.zst": "tar.zst", ".tzst": "tar.zst", ".tar.zstd": "tar.zst",
    ".zip": "zip",
}  # fmt: skip


def format_for(name: str) -> str | None:
    """Return the archive format that a file name declares, None for none."""
    lowered = name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if lowered.endswith(suffix)), None)


def format_of(first_bytes: bytes) -> str | None:
    """Return the format that the first 512 bytes look like; a compressed stream counts as a tar in it."""
    for magic, kind in MAGIC:
        if first_bytes.startswith(magic):
            return kind
    return "tar" if first_bytes[257:262] == b"ustar" else None


def decoded(source: BinaryIO, kind: str, limits: Limits) -> Iterator[bytes]:
    """Yield the decompressed content of `source` in chunks, to its proven end.

    Raises:
        DamagedArchiveError: truncated, wrong checksum, trailing garbage, other bytes than `kind` says.
        ArchiveLimitError: too much output, or too large a window or dictionary.
    """
    allowed = limits.total_for(_size_of(source))
    total = 0
    for chunk in _CODECS[kind](source, limits):
        total += len(chunk)
        if total > allowed:
            raise limit(f"more than {allowed} bytes decompressed", "TOO_LARGE")
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


def _size_of(source: BinaryIO) -> int:
    here = source.tell()
    size = source.seek(0, 2) - here
    source.seek(here)
    return size


def _plain(source: BinaryIO, _limits: Limits) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk


def _streams(source: BinaryIO, start: Callable[[], Any], magic: bytes, padding: int) -> Iterator[bytes]:
    """Decode one stream after the other; `padding` is the unit in bytes of zeros allowed between and after them."""
    waiting = source.read(CHUNK)
    if not waiting.startswith(magic):
        raise damaged(f"does not begin like this format; it looks like {_look(waiting)}", "WRONG_FORMAT")
    while waiting:
        decoder = start()
        while not _ended(decoder):
            produced, waiting = _step(decoder, waiting)
            if produced:
                yield produced
            if not waiting and not _ended(decoder) and not _buffers(decoder):
                waiting = source.read(CHUNK)
                if not waiting:
                    raise damaged("ends in the middle of the compressed data", "TRUNCATED")
        waiting = _next_stream(source, waiting, magic, padding)


def _ended(decoder: Any) -> bool:
    return bool(decoder.eof)


def _buffers(decoder: Any) -> bool:
    """Whether the decoder has output left without more input; zlib hands unused input back instead."""
    return not getattr(decoder, "needs_input", True)


def _step(decoder: Any, waiting: bytes) -> tuple[bytes, bytes]:
    """Decode a bounded piece; return it and the input that is still to come."""
    try:
        produced = decoder.decompress(waiting, _PRODUCED)
    except (zlib.error, OSError, lzma.LZMAError, EOFError) as error:
        if "emory usage limit" in str(error):
            raise limit("needs more memory for its dictionary than xz_memlimit_mib allows", "DICTIONARY") from error
        raise damaged(f"damaged compressed data: {error}", "CORRUPT") from error
    if decoder.eof:
        return produced, decoder.unused_data
    return produced, getattr(decoder, "unconsumed_tail", b"")


def _next_stream(source: BinaryIO, waiting: bytes, magic: bytes, padding: int) -> bytes:
    """Return input that begins with the next stream, or b"" at a proper end."""
    zeros = 0
    while True:
        stripped = waiting.lstrip(b"\x00") if padding else waiting
        zeros += len(waiting) - len(stripped)
        if len(stripped) < len(magic):
            more = source.read(CHUNK)
            if more:
                waiting = stripped + more
                continue
        if zeros and zeros % padding:
            raise damaged("trailing garbage after the compressed data", "TRAILING_GARBAGE")
        if stripped and not stripped.startswith(magic):
            raise damaged("trailing garbage after the compressed data", "TRAILING_GARBAGE")
        return stripped


def _look(first: bytes) -> str:
    kind = format_of(first)
    if kind:
        return kind
    if first.lstrip()[:1] == b"<":
        return "an HTML or XML page"
    return f"{first[:16]!r}" if first else "an empty file"


def _gzip(source: BinaryIO, _limits: Limits) -> Iterator[bytes]:
    return _streams(source, lambda: zlib.decompressobj(wbits=31), b"\x1f\x8b", 1)


def _bzip2(source: BinaryIO, _limits: Limits) -> Iterator[bytes]:
    return _streams(source, bz2.BZ2Decompressor, b"BZh", 0)


def _xz(source: BinaryIO, limits: Limits) -> Iterator[bytes]:
    memory = limits.xz_memlimit_mib << 20
    # xz-file-format 2.2: stream padding is a multiple of four zero bytes
    return _streams(source, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory), b"\xfd7zXZ\x00", 4)


def _zstd(source: BinaryIO, limits: Limits) -> Iterator[bytes]:
    import zstandard  # loaded when there is something to decode

    framing = _ZstdFraming(source, limits)
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << limits.zstd_max_window_log)
    try:
        # its stub asks for a whole file, but it only ever calls read()
        with decompressor.stream_reader(cast("BinaryIO", framing), read_across_frames=True, closefd=False) as reader:
            while chunk := reader.read(_PRODUCED):
                yield chunk
    except zstandard.ZstdError as error:
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

    def finish(self) -> None:
        """Check that the source ended where a frame ended."""
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
            raise damaged(f"does not begin like this format; it looks like {_look(held)}", "WRONG_FORMAT")
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
            window = min(window, 1 << 62)
        else:
            exponent, mantissa = held[0] >> 3, held[0] & 7
            window = (1 << (10 + exponent)) * (8 + mantissa) // 8
        if window > 1 << self._limits.zstd_max_window_log and not (self._single and window <= 1 << 27):
            raise limit(f"needs a window of {window} bytes", "WINDOW")
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


_CODECS: Final[dict[str, Callable[[BinaryIO, Limits], Iterator[bytes]]]] = {
    "tar": _plain,
    "tar.gz": _gzip,
    "tar.bz2": _bzip2,
    "tar.xz": _xz,
    "tar.zst": _zstd,
}
