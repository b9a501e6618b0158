"""A validated archive -> one deterministic `.tar.zst`: same content, same bytes, whoever makes it.

Sorted by name, numeric owner 0, modes 0644/0755, one time for all, pax headers only where ustar has no room, one zstd
frame with checksum and content size.
"""

from __future__ import annotations

import contextlib
import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import Any, BinaryIO, Final

import zstandard

from tasks_lib.archive.codecs import beside, decoded
from tasks_lib.archive.entries import FILE, HARDLINK, Entry, Reshape, Reshaper, damaged
from tasks_lib.archive.exact_reader import BLOCK
from tasks_lib.archive.tar_header import header, header_size
from tasks_lib.archive.validator import EntryValidator
from tasks_lib.errors import escaped
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress

#: zstd's default level.
LEVEL: Final = 3
#: With one worker or more zstd gives the same bytes for any number of them; without workers it gives other ones.
#: Source: zstd.h, ZSTD_c_nbWorkers.
_WORKERS: Final = 2
#: Records of 20 blocks. Source: GNU tar manual, "Blocking"; POSIX pax default.
_RECORD: Final = 20 * BLOCK
_CHUNK: Final = 1 << 20
#: Entries between two words to the watcher, at most.
_REPORT_ENTRIES: Final = 1000
#: Where a record begins in the spool, how long its header is, how long its content, whether it may be executed.
_PLACE: Final = Struct(">QIQ?")
_AT: Final = Struct(">Q")


def write_archive(
    entries: Iterator[Entry],
    *,
    table: EntryValidator,
    reshape: Reshape,
    limits: Limits,
    mtime: int,
    spool: BinaryIO,
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    """Write the archive of `entries` through `write`; return the sha256 hex of its uncompressed tar.

    What can be made of an entry is made while the next ones are decoded; what is left for the end is to read the
    finished records from the spool in the order of their names, in runs as long as they already stand in it.

    Args:
        entries: as they come; records go through `spool`, since the output is sorted.
        table: judges them; empty.
        reshape: applied to every name.
        limits: for the whole tree.
        mtime: the time of all entries, from `mtime_for`.
        spool: an empty temporary file, owned by the caller.
        write: takes compressed bytes.
        progress: told about bytes of content.

    Raises:
        ArchiveError: an entry that cannot be accepted.
        OSError: `spool` or `write` failed.
    """
    pile = _Pile(spool, mtime, progress)
    reshaped = Reshaper(reshape, limits).reshaped
    for entry in entries:
        renamed = reshaped(entry)
        for new in table.add(renamed) if renamed is not None else ():
            pile.add(new)
    pile.flush()
    table.check_links()
    _warn_of_twins(table, progress)
    records = pile.records
    records.sort()
    regrouped = _regrouped(records, pile.links, mtime)
    if table.replaced:
        records = [record for number, record in enumerate(records) if _is_last(records, number)]
    size = sum(len(head) + length for head, _, length in _runs(records, regrouped))
    return _compressed(_spooled(_runs(records, regrouped), spool), size, write, progress)


def write_in_order(
    entries: Iterable[Entry],
    contents: Callable[[Entry], Iterable[bytes]],
    *,
    table: EntryValidator,
    mtime: int,
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    """Write the archive of `entries` through `write`, without a spool; return the sha256 hex of its tar.

    Args:
        entries: in any order, their sizes known; no hard links.
        contents: gives the content of each file, asked for in the order of the paths, from another thread.
        table: judges them; empty.
        mtime: the time of all entries, from `mtime_for`.
        write: takes compressed bytes.
        progress: asked whether to go on.

    Raises:
        ArchiveError: an entry that cannot be accepted, or a content of another size.
        whatever `contents` raises.
    """
    model = sorted(new for entry in entries for new in table.add(entry))
    table.check_links()
    size = sum(header_size(entry) + entry.size + -entry.size % BLOCK for entry in model)
    return _compressed(_pieces(model, contents, mtime), size, write, progress)


def _warn_of_twins(table: EntryValidator, progress: Progress) -> None:
    twin = table.twin()
    if twin is not None:
        progress.warn(
            f"'{escaped(twin)}' differs from another name in case or form only: some file systems hold one of them"
        )


class _Pile:
    """Finished records on their way into the spool, a megabyte at a time.

    `records` says where each stands: its path, a NUL, and `_PLACE`. One string, since an archive holds a million of
    them; in the order of these strings are the paths, which hold no NUL, and those of one path as they came.
    """

    def __init__(self, spool: BinaryIO, mtime: int, progress: Progress) -> None:
        self._spool, self._mtime, self._progress = spool, mtime, progress
        self._held: list[bytes | memoryview] = []
        self._entries = self._size = self._content = 0
        self._at = 0
        self.records: list[bytes] = []
        self.links: dict[bytes, bytes] = {}  # path of a hard link -> what the next record after its content sorts as

    def add(self, entry: Entry) -> None:
        """Add one entry.

        Raises:
            OSError, ArchiveError, CancelledError: as `write_archive`.
        """
        path, kind, size, executable, target, _, chunks = entry
        if kind == HARDLINK:
            self.links[path] = self.links.get(target) or target + b"\0" + _AT.pack(self._at)
        elif path in self.links:
            del self.links[path]
        head = header(entry, self._mtime)
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

    def _hold(self, piece: bytes | memoryview) -> None:
        self._held.append(piece)
        self._size += len(piece)
        self._at += len(piece)
        if self._size >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what is held.

        Raises:
            OSError, CancelledError: as `write_archive`.
        """
        self._spool.write(b"".join(self._held))
        self._progress.advance(self._content)
        self._progress.check()
        self._held, self._entries, self._size, self._content = [], 0, 0, 0


#: A header of its own or b"", then where in the spool the rest stands, and how much it is.
_TarRange = tuple[bytes, int, int]


def _regrouped(records: list[bytes], links: dict[bytes, bytes], mtime: int) -> dict[bytes, _TarRange]:
    """Let the first name of hard-linked files hold the content, whatever the archive's order was.

    A link is one to what stood under the earlier name when it was made; something else may stand there since.
    """
    groups: dict[int, list[bytes]] = {}
    for path, after in links.items():
        groups.setdefault(bisect_left(records, after) - 1, []).append(path)
    made: dict[bytes, _TarRange] = {}
    for number, paths in groups.items():
        record = records[number]
        at, head, size, executable = _PLACE.unpack_from(record, len(record) - _PLACE.size)
        if _is_last(records, number):
            paths.append(record[: -_PLACE.size - 1])
        leader = min(paths)
        for path in paths:
            made[path] = header(Entry(path, HARDLINK, 0, executable, leader), mtime), 0, 0
        content = header(Entry(leader, FILE, size, executable), mtime)
        made[leader] = content, at + head, size + -size % BLOCK
    return made


def _is_last(records: list[bytes], number: int) -> bool:
    """Whether no later entry of the archive has this one's name."""
    return not records[number + 1 : number + 2] or not records[number + 1].startswith(records[number][: -_PLACE.size])


def _runs(records: list[bytes], regrouped: dict[bytes, _TarRange]) -> Iterator[_TarRange]:
    """Yield what the tar consists of, in order; records that stand one after the other are one run."""
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


def _spooled(runs: Iterator[_TarRange], spool: BinaryIO) -> Iterator[bytes]:
    for head, at, length in runs:
        yield head
        if length:
            spool.seek(at)
        while length:
            chunk = spool.read(min(length, _CHUNK))
            length -= len(chunk)
            yield chunk


def _compressed(pieces: Iterator[bytes], size: int, write: Callable[[bytes], object], progress: Progress) -> str:
    """Write `size` bytes of records, and the end of the tar, as one frame; return the sha256 hex of the tar."""
    import zstandard  # loaded when there is something to encode

    end = bytes(2 * BLOCK + -(size + 2 * BLOCK) % _RECORD)
    size += len(end)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, source_size=size, write_checksum=True, write_content_size=True, threads=_WORKERS
    )
    compressor: Any = zstandard.ZstdCompressor(compression_params=parameters).chunker(size=size, chunk_size=_CHUNK)
    digest = hashlib.sha256()
    with contextlib.closing(beside(_joined(pieces))) as made:
        for piece in made:
            digest.update(piece)
            for chunk in compressor.compress(piece):
                write(chunk)
            progress.check()
    digest.update(end)
    for chunk in compressor.compress(end):
        write(chunk)
    for chunk in compressor.finish():
        write(chunk)
    return digest.hexdigest()


def _pieces(model: list[Entry], contents: Callable[[Entry], Iterable[bytes]], mtime: int) -> Iterator[bytes]:
    for entry in model:
        yield header(entry, mtime)
        if entry.kind != FILE:
            continue
        left = entry.size
        for chunk in contents(entry):
            left -= len(chunk)
            yield chunk
        if left:
            raise damaged(f"has {entry.size - left} bytes of content, {entry.size} were announced", "SIZE", entry.path)
        yield bytes(-entry.size % BLOCK)


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in large pieces: hashing, compressing and handing over cost by the piece too."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


#: zstd's default level, and its multi-threaded writer, whose bytes do not depend on the number of threads.
#: Source: zstd.h, ZSTD_c_nbWorkers.
_LEVEL: Final = 3


def recompress(
    source: BinaryIO, *, format: str, limits: Limits, write: Callable[[bytes], object], progress: Progress
) -> None:
    """Write the tar in `source`, unchanged, as one zstd frame with a checksum through `write`.

    Raises:
        ArchiveError: the compression is damaged or too expensive.
        CancelledError: the run was asked to stop.
    """
    parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, write_checksum=True, threads=_WORKERS)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with contextlib.closing(beside(decoded(source, format, limits))) as chunks:
        for chunk in chunks:
            write(compressor.compress(chunk))
            progress.advance(len(chunk))
            progress.check()
    write(compressor.flush())
