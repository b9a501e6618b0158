"""A validated archive -> one deterministic `.tar.zst`: same content, same bytes, whoever makes it.

Sorted by name, numeric owner 0, modes 0644/0755, one fixed time, pax headers only where ustar has no room, one zstd
frame with checksum and content size.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final

from tasks_lib.archive.codecs import beside
from tasks_lib.archive.entries import DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, Limits, Reshape, damaged, reshaped
from tasks_lib.archive.stream import BLOCK
from tasks_lib.archive.table import Table, folded
from tasks_lib.errors import escaped
from tasks_lib.progress import Progress

#: Raise when the bytes of the same content may come out differently.
REPACK_VERSION: Final = 2
#: Modification time of every entry: 1980-01-01T00:00:00Z, the first one that zip can hold; GNU tar warns at 0.
MTIME: Final = 315_532_800
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
#: A symlink has no mode of its own: every Linux shows 0777.
_MODES: Final = {SYMLINK: 0o777, DIRECTORY: 0o755}
_TYPES: Final = {FILE: b"0", HARDLINK: b"1", SYMLINK: b"2", DIRECTORY: b"5"}


def write_archive(
    entries: Iterator[Entry],
    *,
    table: Table,
    reshape: Reshape,
    limits: Limits,
    spool: BinaryIO,
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    """Write the archive of `entries` through `write`; return the sha256 hex of its uncompressed tar.

    Args:
        entries: as they come; content goes through `spool`, since the output is sorted.
        table: judges them; empty.
        reshape: applied to every name.
        limits: for the whole tree.
        spool: an empty temporary file, owned by the caller.
        write: takes compressed bytes.
        progress: told about bytes of content.

    Raises:
        ArchiveError: an entry that cannot be accepted.
        OSError: `spool` or `write` failed.
    """
    model = []
    pile = _Spool(spool, progress)
    for entry in entries:
        renamed = reshaped(entry, reshape, limits)
        for new in table.add(renamed) if renamed is not None else ():
            path, kind, size, executable, target, _, chunks = new
            # from here on `offset` is where the content stands in the spool
            model.append(Entry(path, kind, size, executable, target, pile.at))
            pile.add(chunks)
    pile.flush()
    table.check_links()
    model.sort()  # by path, as the first field
    _warn_of_twins(model, progress)
    return _compressed(_normalised_links(model), _spooled(spool), write, progress)


def write_in_order(
    entries: Iterable[Entry],
    contents: Callable[[Entry], Iterable[bytes]],
    *,
    table: Table,
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    """Write the archive of `entries` through `write`, without a spool; return the sha256 hex of its tar.

    Args:
        entries: in any order, their sizes known; no hard links.
        contents: gives the content of each file, asked for in the order of the paths, from another thread.
        table: judges them; empty.
        write: takes compressed bytes.
        progress: asked whether to go on.

    Raises:
        ArchiveError: an entry that cannot be accepted, or a content of another size.
        whatever `contents` raises.
    """
    model = sorted(new for entry in entries for new in table.add(entry))
    table.check_links()
    return _compressed(model, contents, write, progress)


def _warn_of_twins(model: list[Entry], progress: Progress) -> None:
    seen: set[int] = set()  # of hashes: a warning may be wrong once in 2^64, and a million names take room
    for entry in model:
        name = hash(folded(entry.path))
        if name in seen:
            shown = escaped(entry.path)
            progress.warn(
                f"'{shown}' differs from another name in case or form only: some file systems hold one of them"
            )
            return
        seen.add(name)


class _Spool:
    """Content on its way into the spool, a megabyte at a time."""

    def __init__(self, spool: BinaryIO, progress: Progress) -> None:
        self._spool, self._progress = spool, progress
        self._held: list[bytes | memoryview] = []
        self._entries = self._size = 0
        self.at = 0

    def add(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Add the content of one entry.

        Raises:
            OSError, ArchiveError, CancelledError: as `write_archive`.
        """
        for chunk in chunks:
            self._held.append(chunk)
            self._size += len(chunk)
            self.at += len(chunk)
            if self._size >= _CHUNK:
                self.flush()
        self._entries += 1
        if self._entries >= _REPORT_ENTRIES:
            self.flush()

    def flush(self) -> None:
        """Write what is held.

        Raises:
            OSError, CancelledError: as `write_archive`.
        """
        self._spool.write(b"".join(self._held))
        self._progress.advance(self._size)
        self._progress.check()
        self._held, self._entries, self._size = [], 0, 0


def _normalised_links(model: list[Entry]) -> list[Entry]:
    """Let the first name of hard-linked files hold the content, whatever the archive's order was."""
    links = {entry.path: entry.target for entry in model if entry.kind == HARDLINK}
    groups: dict[bytes, list[bytes]] = {}
    for path in links:
        source = path
        while source in links:
            source = links[source]
        groups.setdefault(source, [source]).append(path)
    leaders = {path: min(group) for group in groups.values() for path in group}
    content = {leaders[entry.path]: entry for entry in model if entry.path in groups}
    return [_regrouped(entry, leaders, content) if entry.path in leaders else entry for entry in model]


def _regrouped(entry: Entry, leaders: dict[bytes, bytes], content: dict[bytes, Entry]) -> Entry:
    leader = leaders[entry.path]
    source = content[leader]
    if leader == entry.path:
        return source._replace(path=leader)
    return Entry(entry.path, HARDLINK, 0, source.executable, leader)


def _spooled(spool: BinaryIO) -> Callable[[Entry], Iterable[bytes]]:
    at = -1  # where the spool stands

    def contents(entry: Entry) -> Iterator[bytes]:
        nonlocal at
        left = entry.size
        if at != entry.offset:
            spool.seek(entry.offset)
        at = entry.offset + left
        while left:
            chunk = spool.read(min(left, _CHUNK))
            left -= len(chunk)
            yield chunk

    return contents


def _compressed(
    model: list[Entry],
    contents: Callable[[Entry], Iterable[bytes]],
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    import zstandard  # loaded when there is something to encode

    size = sum(_header_size(entry) + entry.size + -entry.size % BLOCK for entry in model) + 2 * BLOCK
    size += -size % _RECORD
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, source_size=size, write_checksum=True, write_content_size=True, threads=_WORKERS
    )
    compressor: Any = zstandard.ZstdCompressor(compression_params=parameters).chunker(size=size, chunk_size=_CHUNK)
    digest = hashlib.sha256()
    written = 0
    with contextlib.closing(beside(_pieces(model, contents))) as pieces:
        for piece in pieces:
            digest.update(piece)
            written += len(piece)
            for chunk in compressor.compress(piece):
                write(chunk)
            progress.check()
    end = bytes(size - written)
    digest.update(end)
    for chunk in compressor.compress(end):
        write(chunk)
    for chunk in compressor.finish():
        write(chunk)
    return digest.hexdigest()


def _pieces(model: list[Entry], contents: Callable[[Entry], Iterable[bytes]]) -> Iterator[bytes]:
    """Yield the tar: small pieces are joined, so that hashing and compressing see large ones."""
    held: list[bytes] = []
    size = 0
    for entry in model:
        head = header(entry)
        held.append(head)
        size += len(head)
        if entry.kind != FILE:
            continue
        left = entry.size
        for chunk in contents(entry):
            left -= len(chunk)
            held.append(chunk)
            size += len(chunk)
            if size >= _CHUNK:
                yield b"".join(held)
                held, size = [], 0
        if left:
            raise damaged(f"has {entry.size - left} bytes of content, {entry.size} were announced", "SIZE", entry.path)
        held.append(bytes(-entry.size % BLOCK))
        size += -entry.size % BLOCK
    yield b"".join(held)


def _header_size(entry: Entry) -> int:
    """Return the length of `header`, mostly without making it."""
    if len(entry.path) < 100 and len(entry.target) <= 100 and entry.size < 8**11:
        return BLOCK
    return len(header(entry))


def header(entry: Entry) -> bytes:
    """Return the header block of an entry, after a pax header where ustar has no room."""
    name = entry.path + (b"/" if entry.kind == DIRECTORY else b"")
    records = b""
    prefix, short = _split(name)
    if short is None:
        records += _record(b"path", name)
        prefix, short = b"", name[:100]
    link = entry.target if entry.kind in (SYMLINK, HARDLINK) else b""
    if len(link) > 100:
        records += _record(b"linkpath", link)
        link = link[:100]
    size = entry.size if entry.kind == FILE else 0
    if size >= 8**11:
        records += _record(b"size", str(size).encode())
        size = 0
    mode = _MODES.get(entry.kind) or (0o755 if entry.executable else 0o644)
    block = _block(short, prefix, mode, size, _TYPES[entry.kind], link)
    if not records:
        return block
    if not records.isascii():
        records = _encoding_record(records) + records
    # POSIX leaves the name of the extension header open
    extension = _block(b"././@PaxHeader", b"", 0o644, len(records), b"x", b"")
    return extension + records + bytes(-len(records) % BLOCK) + block


def _encoding_record(records: bytes) -> bytes:
    """Say that names are bytes when they are no UTF-8. Source: POSIX pax, keyword hdrcharset."""
    try:
        records.decode("utf-8")
    except UnicodeDecodeError:
        return _record(b"hdrcharset", b"BINARY")
    return b""


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """Return ustar's prefix and name fields; the name is None when it does not fit."""
    if len(name) <= 100:
        return b"", name
    at = name.find(b"/", len(name) - 101, 156)
    if at <= 0 or len(name) > 256 or len(name) - at - 1 > 100 or at > 155 or at == len(name) - 1:
        return b"", None
    return name[:at], name[at + 1 :]


def _record(key: bytes, value: bytes) -> bytes:
    """Return a pax record, whose length counts its own digits."""
    body = b" " + key + b"=" + value + b"\n"
    size = len(body)
    while len(str(size)) + len(body) != size:
        size = len(str(size)) + len(body)
    return str(size).encode() + body


def _block(name: bytes, prefix: bytes, mode: int, size: int, kind: bytes, link: bytes) -> bytes:
    fields = b"".join(
        (
            name.ljust(100, b"\0"), b"%07o\0" % mode, b"0000000\0", b"0000000\0", b"%011o\0" % size,
            b"%011o\0" % MTIME, b" " * 8, kind, link.ljust(100, b"\0"), b"ustar\x0000", bytes(64),
            b"0000000\0", b"0000000\0", prefix.ljust(155, b"\0"), bytes(12),
        )
    )  # fmt: skip
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]
