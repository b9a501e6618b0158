"""Archive reading and writing: validated entries from tar, compressed tar, zip and deb, and a deterministic writer.

All code that knows archive formats is in this package. It rejects archives that are damaged, ambiguous or too
expensive, or that would write outside the destination. Each error names archive, entry, offset, reason and code
(docs/archives.md).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, BinaryIO

from tasks_lib.archive.codecs import LARGE_PIECE, SMALL_PIECE, decompress, read_ahead, remaining_size
from tasks_lib.archive.deb import open_data_archive
from tasks_lib.archive.entries import (
    ARCHIVE_VARIABLES,
    HOLE,
    SYMLINK,
    Entry,
    Reshape,
    Reshaper,
    normalize_path,
    sniff_format,
    validate_target,
)
from tasks_lib.archive.tar import TarReader
from tasks_lib.archive.validator import EntryValidator, find_last, never_repeats, select
from tasks_lib.archive.writer import write_archive, write_in_order
from tasks_lib.archive.zip import ZipReader
from tasks_lib.errors import ArchiveError
from tasks_lib.formats import format_from_name
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress

__all__ = [
    "ARCHIVE_VARIABLES",
    "HOLE",
    "Entry",
    "Limits",
    "Reshape",
    "detect_format",
    "make_entry",
    "read",
    "repack",
    "sniff_format",
    "write",
    "write_sized",
]


@contextlib.contextmanager
def _name_errors(archive: str, reader: TarReader | ZipReader | None = None) -> Iterator[None]:
    """Add the archive's name and the current read position to errors raised inside the context."""
    try:
        yield
    except ArchiveError as error:
        if error.archive:
            raise
        offset, entry = error.offset, error.entry
        if reader is not None:
            offset = reader.offset if offset is None else offset
            entry = reader.last if entry is None else entry
        raise type(error)(
            archive=archive, reason=error.reason, code=error.code, entry=entry, offset=offset, hint=error.hint
        ) from error.__cause__


def detect_format(file: BinaryIO, name: str, limits: Limits) -> str | None:
    """Return the format that `name` declares, or the format detected from the content; None if it is not an archive.

    A file whose definition allows a prefix of a zip is a zip.
    """
    declared = format_from_name(name)
    if declared is None:
        file.seek(0)
        declared = sniff_format(file.read(512)) or ("zip" if limits.zip_prefix == "ignore" else None)
        file.seek(0)
    return declared


@contextlib.contextmanager
def _open_entries(
    source: BinaryIO, name: str, kind: str, limits: Limits, strip: int, slow_piece: int
) -> Iterator[Iterator[Entry]]:
    if kind == "zip":
        zipped = ZipReader(source, limits, strip)
        with _name_errors(name, zipped):
            yield zipped.entries()
        return
    if kind == "deb":
        with _name_errors(name):
            source, kind = open_data_archive(source, limits)
    # close it explicitly: its thread reads `source`, which the caller may close next
    with contextlib.closing(read_ahead(decompress(source, kind, limits, slow_piece))) as chunks:
        reader = TarReader(chunks, limits, strip)
        with _name_errors(name, reader):
            yield reader.entries()


def _rename(entries: Iterator[Entry], reshape: Reshape, limits: Limits) -> Iterator[Entry]:
    """Return the renamed entries, without directories whose names are stripped completely."""
    if not reshape.strip and not reshape.prefix:
        return filter(itemgetter(0), entries)
    return filter(None, map(Reshaper(reshape, limits).reshape, entries))


@contextlib.contextmanager
def _open_renamed(
    source: BinaryIO, name: str, kind: str, reshape: Reshape, limits: Limits, slow_piece: int
) -> Iterator[Iterator[Entry]]:
    """Yield the renamed entries; if `limits.duplicates` is "last", read twice to yield each name once."""
    opened = functools.partial(_open_entries, source, name, kind, limits, reshape.strip, slow_piece)
    if limits.duplicates != "last":
        with opened() as entries:
            yield _rename(entries, reshape, limits)
        return
    start = source.tell()
    validator = EntryValidator(limits, limits.max_total_for(remaining_size(source)))
    with opened() as entries:
        names = find_last(_rename(entries, reshape, limits), validator)
    source.seek(start)
    with opened() as entries:
        yield select(_rename(entries, reshape, limits), names)


def read(
    source: BinaryIO,
    *,
    name: str,
    format: str,
    reshape: Reshape,
    limits: Limits,
    sink: Callable[[Entry], None],
    repeats: Callable[[Entry], bool] = never_repeats,
) -> None:
    """Pass every accepted entry to `sink`, parents first, in the archive's order.

    `repeats` is called for a file whose name `sink` has received before: it reads the content and returns whether it
    and the executable bit are the same. The tree is valid only after this function returns: symlinks and the end of the
    archive are checked last.

    Raises:
        ArchiveError: the archive is rejected (any subclass); `archive` is `name`.
        Exception: any exception raised by `sink` or `repeats`.
    """
    table = EntryValidator(limits, limits.max_total_for(remaining_size(source)), repeats)
    add = table.add
    with _open_renamed(source, name, format, reshape, limits, LARGE_PIECE) as entries:
        for entry in entries:
            for new in add(entry):
                sink(new)
        table.check_links()


def repack(
    source: BinaryIO,
    *,
    name: str,
    format: str,
    reshape: Reshape,
    limits: Limits,
    mtime: int,
    spool: BinaryIO,
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    """Write an archive as a deterministic `.tar.zst` through `write`; return the sha256 hex of the tar.

    `mtime` comes from `mtime_for`, as everywhere in this package; keys of the result contain its `writer_version`.

    Raises:
        ArchiveError: the archive is rejected (any subclass); `archive` is `name`.
        OSError: an operation on `spool` failed.
    """
    allowed = limits.max_total_for(remaining_size(source))
    with _open_renamed(source, name, format, reshape, limits, SMALL_PIECE) as entries:
        return write_archive(
            entries,
            limits=limits,
            allowed=allowed,
            mtime=mtime,
            spool=spool,
            write=write,
            progress=progress,
        )


def make_entry(path: bytes, kind: str, limits: Limits, *, archive: str = "", **more: Any) -> Entry:
    """Return an entry that does not come from an archive, with path and link target checked as if it did.

    Raises:
        ArchiveError: the path is absolute, too long, or contains `..` or control characters, or the link target is
            unusable; the error names `archive`.
    """
    try:
        entry = Entry(normalize_path(path, limits, 0), kind, **more)
        if kind == SYMLINK:
            validate_target(entry.target, kind, limits, path, 0)
    except ArchiveError as error:
        raise type(error).of(error, archive=archive) from None
    return entry


def write(
    entries: Iterator[Entry],
    *,
    name: str,
    limits: Limits,
    mtime: int,
    spool: BinaryIO,
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    """Write `entries` as a deterministic `.tar.zst` through `write`; return the sha256 hex of the tar.

    Raises:
        ArchiveError: an entry is rejected (any subclass); `archive` is `name`.
        OSError: an operation on `spool` failed.
    """
    with _name_errors(name):
        return write_archive(
            entries,
            limits=limits,
            allowed=limits.max_total_bytes,
            mtime=mtime,
            spool=spool,
            write=write,
            progress=progress,
        )


def write_sized(
    entries: Iterable[Entry],
    contents: Callable[[Entry], Iterable[bytes]],
    *,
    name: str,
    limits: Limits,
    mtime: int,
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    """Write entries with known sizes as a deterministic `.tar.zst`; see `writer.write_in_order`.

    Raises:
        ArchiveError: an entry is rejected (any subclass); `archive` is `name`.
        Exception: any exception raised by `contents`.
    """
    table = EntryValidator(limits, limits.max_total_bytes)
    with _name_errors(name):
        return write_in_order(entries, contents, table=table, mtime=mtime, write=write, progress=progress)
