"""Deterministic writer of `.tar.zst` and `.tar`: the same content yields the same bytes on every machine.

Entries are sorted by name, with numeric owner 0, modes 0644 or 0755 and one mtime for all. Pax headers are written
only where ustar fields are too small. A `.tar.zst` is one zstd frame with checksum and content size.
"""

from __future__ import annotations

import contextlib
import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import Any, BinaryIO, Final, Literal

import zstandard

from tasks_lib.archive.codecs import decompress, read_ahead
from tasks_lib.archive.entries import FILE, HARDLINK, Entry, damaged_archive
from tasks_lib.archive.exact_reader import BLOCK
from tasks_lib.archive.tar_header import format_header, header_size
from tasks_lib.archive.validator import EntryValidator
from tasks_lib.errors import escape_text
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress

Compression = Literal["zstd", "none"]
#: zstd's default level.
LEVEL: Final = 3
#: With one or more workers, zstd writes the same bytes for any number of workers; without workers the bytes differ.
#: Source: zstd.h, ZSTD_c_nbWorkers.
_WORKERS: Final = 2
#: Records of 20 blocks. Source: GNU tar manual, "Blocking"; POSIX pax default.
_RECORD: Final = 20 * BLOCK
_CHUNK: Final = 1 << 20
#: Maximum number of entries between two progress reports.
_REPORT_ENTRIES: Final = 1000
#: Position of a record in the spool: its offset, header size, content size and executable flag.
_PLACE: Final = Struct(">QIQ?")


def write_archive(
    entries: Iterator[Entry],
    *,
    limits: Limits,
    allowed: int,
    mtime: int,
    spool: BinaryIO,
    write: Callable[[bytes], object],
    progress: Progress,
    compression: Compression = "zstd",
) -> str:
    """Write the archive of `entries` through `write`; return the sha256 hex of the uncompressed tar.

    Each entry is formatted while the next ones are decoded. At the end the finished records are read from the spool in
    the order of their names; consecutive records in the spool are read as one range.

    Args:
        entries: in any order; records go through `spool` because the output is sorted.
        limits: limits for the whole tree.
        allowed: maximum number of bytes of content.
        mtime: the mtime of all entries, from `mtime_for`.
        spool: an empty temporary file, owned by the caller.
        write: receives the bytes of the archive.
        progress: receives the number of content bytes.
        compression: of the archive.

    Raises:
        ArchiveError: an entry is rejected.
        OSError: an operation on `spool`, or `write`, failed.
    """
    pile = _SpoolBuffer(spool, mtime, progress)
    table = EntryValidator(limits, allowed, pile.repeats)
    for entry in entries:
        for new in table.add(entry):
            pile.add(new)
    pile.flush()
    table.check_links()
    _warn_of_case_collision(table, progress)
    records = pile.records
    records.sort()
    regrouped = _regroup_hard_links(records, pile.links, mtime)
    size = sum(len(head) + length for head, _, length in _runs(records, regrouped))
    return _finish(_read_ranges(_runs(records, regrouped), spool), size, write, progress, compression)


def write_in_order(
    entries: Iterable[Entry],
    contents: Callable[[Entry], Iterable[bytes]],
    *,
    table: EntryValidator,
    mtime: int,
    write: Callable[[bytes], object],
    progress: Progress,
    compression: Compression = "zstd",
) -> str:
    """Write the archive of `entries` through `write`, without a spool; return the sha256 hex of the tar.

    Args:
        entries: in any order, with known sizes; no hard links.
        contents: returns the content of a file; called in the order of the paths, from another thread.
        table: validates the entries; empty.
        mtime: the mtime of all entries, from `mtime_for`.
        write: receives the bytes of the archive.
        progress: checked for cancellation.
        compression: of the archive.

    Raises:
        ArchiveError: an entry is rejected, or the size of its content differs from the declared size.
        Exception: any exception raised by `contents`.
    """
    model = sorted(new for entry in entries for new in table.add(entry))
    table.check_links()
    size = sum(header_size(entry) + entry.size + -entry.size % BLOCK for entry in model)
    return _finish(_pieces(model, contents, mtime), size, write, progress, compression)


def _warn_of_case_collision(table: EntryValidator, progress: Progress) -> None:
    twin = table.twin()
    if twin is not None:
        progress.warn(
            f"'{escape_text(twin)}' differs from another name only in case or Unicode form: "
            "some file systems can store only one of them"
        )


class _SpoolBuffer:
    """Buffer of finished records, written to the spool one megabyte at a time.

    `records` holds the position of each record: its path, a NUL and `_PLACE`. It is one string because an archive has
    up to a million records. Sorting these strings sorts by path, as paths contain no NUL.
    """

    def __init__(self, spool: BinaryIO, mtime: int, progress: Progress) -> None:
        self._spool, self._mtime, self._progress = spool, mtime, progress
        self._held: list[bytes | memoryview] = []
        self._entries = self._size = self._content = 0
        self._at = 0
        self.records: list[bytes] = []
        self.links: dict[bytes, bytes] = {}  # path of a hard link -> path of the file that has its content
        self._found: dict[bytes, bytes] = {}  # path -> record, of the records before `_indexed`
        self._indexed = 0

    def add(self, entry: Entry) -> None:
        """Add one entry.

        Raises:
            OSError, ArchiveError, CancelledError: as `write_archive`.
        """
        path, kind, size, executable, target, _, chunks = entry
        if kind == HARDLINK:
            self.links[path] = self.links.get(target, target)
        head = format_header(entry, self._mtime)
        self.records.append(path + b"\0" + _PLACE.pack(self._at, len(head), size, executable))
        self._hold(head)
        for chunk in chunks:
            self._hold(chunk)
            self._content += len(chunk)
        if size:
            self._hold(bytes(-size % BLOCK))
        self._entries += 1
        if self._entries >= _REPORT_ENTRIES:
            self.flush()

    def repeats(self, entry: Entry) -> bool:
        """Return whether the file of the same name has the content and the executable bit of this entry.

        Raises:
            OSError, ArchiveError, CancelledError: as `write_archive`.
        """
        self.flush()
        for record in self.records[self._indexed :]:
            self._found[record[: -_PLACE.size - 1]] = record
        self._indexed = len(self.records)
        record = self._found[self.links.get(entry.path, entry.path)]
        at, head, size, executable = _PLACE.unpack_from(record, len(record) - _PLACE.size)
        if (size, executable) != (entry.size, entry.executable):
            return False
        self._spool.seek(at + head)
        same = all(self._spool.read(len(chunk)) == chunk for chunk in entry.chunks)
        self._spool.seek(0, 2)
        return same

    def _hold(self, piece: bytes | memoryview) -> None:
        self._held.append(piece)
        self._size += len(piece)
        self._at += len(piece)
        if self._size >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write the buffer to the spool.

        Raises:
            OSError, CancelledError: as `write_archive`.
        """
        self._spool.write(b"".join(self._held))
        self._progress.advance(self._content)
        self._progress.check()
        self._held, self._entries, self._size, self._content = [], 0, 0, 0


#: A replacement header or b"", then offset and size of the rest in the spool.
_TarRange = tuple[bytes, int, int]


def _regroup_hard_links(records: list[bytes], links: dict[bytes, bytes], mtime: int) -> dict[bytes, _TarRange]:
    """Return replacement ranges so that the first name of each group of hard links holds the content.

    The result does not depend on the order of the archive.
    """
    groups: dict[bytes, list[bytes]] = {}
    for path, first in links.items():
        groups.setdefault(first, [first]).append(path)
    regrouped: dict[bytes, _TarRange] = {}
    for first, paths in groups.items():
        record = records[bisect_left(records, first + b"\0")]
        at, head, size, executable = _PLACE.unpack_from(record, len(record) - _PLACE.size)
        leader = min(paths)
        for path in paths:
            regrouped[path] = format_header(Entry(path, HARDLINK, 0, executable, leader), mtime), 0, 0
        content = format_header(Entry(leader, FILE, size, executable), mtime)
        regrouped[leader] = content, at + head, size + -size % BLOCK
    return regrouped


def _runs(records: list[bytes], regrouped: dict[bytes, _TarRange]) -> Iterator[_TarRange]:
    """Yield the ranges of the tar in order; consecutive records in the spool form one range."""
    first = end = 0
    for record in records:
        place = len(record) - _PLACE.size
        at, head, size, _ = _PLACE.unpack_from(record, place)
        own = regrouped.get(record[: place - 1]) if regrouped else None
        if own is None and at == end:
            end += head + size + -size % BLOCK
            continue
        yield b"", first, end - first
        first, end = (at, at + head + size + -size % BLOCK) if own is None else (0, 0)
        if own is not None:
            yield own
    yield b"", first, end - first


def _read_ranges(runs: Iterator[_TarRange], spool: BinaryIO) -> Iterator[bytes]:
    for head, at, length in runs:
        yield head
        if length:
            spool.seek(at)
        while length:
            chunk = spool.read(min(length, _CHUNK))
            length -= len(chunk)
            yield chunk


class _Stored:
    """The interface of a zstd chunker, without compression."""

    def compress(self, piece: bytes) -> tuple[bytes, ...]:
        """Return the bytes to write for a piece."""
        return (piece,)

    def finish(self) -> tuple[bytes, ...]:
        """Return the bytes to write at the end."""
        return ()


def _finish(
    pieces: Iterator[bytes],
    size: int,
    write: Callable[[bytes], object],
    progress: Progress,
    compression: Compression,
) -> str:
    """Write `size` bytes of records and the end of the tar, as one frame or plain; return the sha256 hex of the tar."""
    end = bytes(2 * BLOCK + -(size + 2 * BLOCK) % _RECORD)
    chunker: Any = _Stored() if compression == "none" else _open_frame(size + len(end))
    digest = hashlib.sha256()
    with contextlib.closing(read_ahead(_join_pieces(pieces))) as joined:
        for piece in joined:
            digest.update(piece)
            for chunk in chunker.compress(piece):
                write(chunk)
            progress.check()
    digest.update(end)
    for chunk in chunker.compress(end):
        write(chunk)
    for chunk in chunker.finish():
        write(chunk)
    return digest.hexdigest()


def _open_frame(size: int) -> Any:
    """Return zstandard's chunker of one frame of `size` bytes."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, source_size=size, write_checksum=True, write_content_size=True, threads=_WORKERS
    )
    return zstandard.ZstdCompressor(compression_params=parameters).chunker(size=size, chunk_size=_CHUNK)


def _pieces(model: list[Entry], contents: Callable[[Entry], Iterable[bytes]], mtime: int) -> Iterator[bytes]:
    for entry in model:
        yield format_header(entry, mtime)
        if entry.kind != FILE:
            continue
        left = entry.size
        for chunk in contents(entry):
            left -= len(chunk)
            yield chunk
        if left:
            raise damaged_archive(
                f"expected {entry.size} bytes of content, got {entry.size - left}", "SIZE", entry.path
            )
        yield bytes(-entry.size % BLOCK)


def _join_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in large pieces: hashing, compressing and queueing have a cost per piece."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


#: zstd's default level. The multi-threaded writer is used; its output does not depend on the number of threads.
#: Source: zstd.h, ZSTD_c_nbWorkers.
_LEVEL: Final = 3


def recompress(
    source: BinaryIO, *, format: str, limits: Limits, write: Callable[[bytes], object], progress: Progress
) -> None:
    """Write the unchanged tar in `source` as one zstd frame with a checksum through `write`.

    Raises:
        ArchiveError: the compressed data is damaged or exceeds a limit.
        CancelledError: the run was asked to stop.
    """
    parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, write_checksum=True, threads=_WORKERS)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with contextlib.closing(read_ahead(decompress(source, format, limits))) as chunks:
        for chunk in chunks:
            write(compressor.compress(chunk))
            progress.advance(len(chunk))
            progress.check()
    write(compressor.flush())
