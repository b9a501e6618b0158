"""Archive reading and writing: validated entries from tar, compressed tar, zip and deb, and a deterministic writer.

All code that knows archive formats is in this package. It rejects archives that are damaged, ambiguous or too
expensive, or that would write outside the destination. Each error names archive, entry, offset, reason and code
(docs/archives.md).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from tasks_lib.archive.codecs import CODECS, LARGE_PIECE, SMALL_PIECE, decompress, read_ahead, remaining_size
from tasks_lib.archive.detection import detect_content, detect_format, explain_placed
from tasks_lib.archive.entries import (
    ARCHIVE_VARIABLES,
    DIRECTORY,
    FILE,
    HOLE,
    SYMLINK,
    Entry,
    Reshape,
    is_program,
    normalize_path,
    sniff_format,
    unsafe_entry,
    validate_target,
)
from tasks_lib.archive.reshaping import rename
from tasks_lib.archive.small_files import Item, SmallFiles, one_by_one
from tasks_lib.archive.tar import TarReader
from tasks_lib.archive.validator import EntryValidator, find_last, never_repeats, select
from tasks_lib.archive.writer import Compression, write_archive, write_in_order
from tasks_lib.errors import ArchiveError, ArchiveLimitError, DamagedArchiveError
from tasks_lib.formats import SINGLE, uncompressed_name
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress, do_nothing

if TYPE_CHECKING:
    from tasks_lib.archive.zip import ZipReader

__all__ = [
    "ARCHIVE_VARIABLES",
    "HOLE",
    "Entry",
    "Limits",
    "Reshape",
    "SmallFiles",
    "detect_content",
    "detect_format",
    "explain_placed",
    "is_program",
    "make_entry",
    "open_entries",
    "read",
    "read_modes",
    "repack",
    "sniff_format",
    "unsafe_entry",
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


@contextlib.contextmanager
def _name_format(source: BinaryIO, kind: str, limits: Limits) -> Iterator[None]:
    """Add to an error about damaged data the key that overrides the format, if the content is in another format."""
    try:
        yield
    except DamagedArchiveError as error:
        found = None
        with contextlib.suppress(ArchiveLimitError):
            found = detect_content(source, limits)
        if found is not None and found != kind and not error.hint:
            error.hint = f"its content is in the format {found}: set `format: {found}` in its definition"
        raise


class _ArchiveFile(NamedTuple):
    """An archive, and how it is read; `slow_piece` and `check` are as in `decompress` and `read`."""

    source: BinaryIO
    name: str
    kind: str
    reshape: Reshape
    limits: Limits
    slow_piece: int
    check: Callable[[], None] = do_nothing

    @contextlib.contextmanager
    def renamed(self) -> Iterator[Iterator[Item]]:
        """Yield the renamed entries; if `limits.duplicates` is "last", read twice to yield each name once."""
        if self.limits.duplicates != "last":
            with self._entries() as items:
                yield rename(items, self.reshape, self.limits)
            return
        start = self.source.tell()
        validator = EntryValidator(self.limits, self.limits.max_total_for(remaining_size(self.source)))
        with self._entries() as items:
            names = find_last(one_by_one(rename(items, self.reshape, self.limits)), validator)
        self.source.seek(start)
        with self._entries() as items:
            yield select(one_by_one(rename(items, self.reshape, self.limits)), names)

    @contextlib.contextmanager
    def _entries(self) -> Iterator[Iterator[Item]]:
        with _name_format(self.source, self.kind, self.limits), _name_errors(self.name):
            if self.kind in SINGLE:
                yield self._single()
            elif self.kind in CODECS:
                with self._tar(decompress(self.source, self.kind, self.limits, self.slow_piece)) as entries:
                    yield entries
            else:
                with self._other() as entries:
                    yield entries

    def _single(self) -> Iterator[Entry]:
        """Yield the only entry of a compressed file: it is decoded twice, because an entry needs its size."""
        begin = self.source.tell()
        size, first = 0, b""
        for chunk in decompress(self.source, SINGLE[self.kind], self.limits):
            first = first or chunk[:4]
            size += len(chunk)
        self.source.seek(begin)
        path = normalize_path(os.fsencode(uncompressed_name(self.name)), self.limits, 0)
        chunks = decompress(self.source, SINGLE[self.kind], self.limits)
        yield Entry(path, FILE, size, self.reshape.executable or is_program(first), chunks=chunks)

    @contextlib.contextmanager
    def _other(self) -> Iterator[Iterator[Item]]:
        """Yield the entries of an archive that is not a tar which this process decompresses."""
        from tasks_lib.archive import deb, more_formats, zip  # slow to import, and few archives need them

        if self.kind == "zip":
            zipped = zip.ZipReader(self.source, self.limits, self.reshape.strip)
            with _name_errors(self.name, zipped):
                yield zipped.entries()
            return
        if self.kind in ("7z", "rpm"):
            yield more_formats.read_entries(self.source, self.kind, self.limits, self.reshape.strip)
            return
        if self.kind == "deb":
            data, kind = deb.open_data_archive(self.source, self.limits)
            pieces = decompress(data, kind, self.limits, self.slow_piece)
        else:
            pieces = more_formats.decompress_stream(self.source, self.kind, self.limits)
        with self._tar(pieces) as entries:
            yield entries

    @contextlib.contextmanager
    def _tar(self, pieces: Iterator[bytes]) -> Iterator[Iterator[Item]]:
        # close it explicitly: its thread reads the source, which the caller may close next
        with contextlib.closing(read_ahead(pieces)) as chunks:
            reader = TarReader(_checked(chunks, self.check), self.limits, self.reshape.strip)
            with _name_errors(self.name, reader):
                yield reader.entries()


def _checked(chunks: Iterator[bytes], check: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        check()
        yield chunk


@contextlib.contextmanager
def open_entries(
    source: BinaryIO, *, name: str, format: str, reshape: Reshape, limits: Limits, check: Callable[[], None]
) -> Iterator[Iterator[Entry]]:
    """Yield the renamed entries of an archive, which a writer of this package validates together with others.

    Raises:
        ArchiveError: the archive is rejected; `archive` is `name`.
        Exception: any exception raised by `check`, which is called for every decompressed piece of a tar.
    """
    with _ArchiveFile(source, name, format, reshape, limits, SMALL_PIECE, check).renamed() as items:
        yield one_by_one(items)


def read_modes(
    source: BinaryIO, *, name: str, limits: Limits, check: Callable[[], None]
) -> Iterator[tuple[Entry, int]]:
    """Yield the entries of a tar, each with its mode, 0 if it is not a directory; they are not validated together.

    Raises:
        ArchiveError: the archive is rejected; `archive` is `name`.
        Exception: any exception raised by `check`.
    """
    with contextlib.closing(read_ahead(decompress(source, "tar", limits, LARGE_PIECE))) as chunks:
        reader = TarReader(_checked(chunks, check), limits)
        with _name_errors(name, reader):
            for entry in one_by_one(reader.entries()):
                yield entry, reader.mode if entry.kind == DIRECTORY else 0


def read(
    source: BinaryIO,
    *,
    name: str,
    format: str,
    reshape: Reshape,
    limits: Limits,
    sink: Callable[[Entry], None],
    sink_files: Callable[[SmallFiles], None] | None = None,
    repeats: Callable[[Entry], bool] = never_repeats,
    check: Callable[[], None] = do_nothing,
) -> None:
    """Pass every accepted entry to `sink`, parents first, in the archive's order.

    If there is a `sink_files`, it receives files of one directory that are new and whose content is in memory.

    `repeats` is called for a file whose name `sink` has received before: it reads the content and returns whether it
    and the executable bit are the same. The tree is valid only after this function returns: symlinks and the end of the
    archive are checked last. Metadata alone may keep the decoder busy without any entry, so `check` is called for every
    decompressed piece of a tar.

    Raises:
        ArchiveError: the archive is rejected (any subclass); `archive` is `name`.
        Exception: any exception raised by `sink`, `sink_files`, `repeats` or `check`.
    """
    table = EntryValidator(limits, limits.max_total_for(remaining_size(source)), repeats)
    add = table.add
    with _ArchiveFile(source, name, format, reshape, limits, LARGE_PIECE, check).renamed() as items:
        for item in items:
            if sink_files is not None and isinstance(item, SmallFiles) and table.add_files(item):
                sink_files(item)
                continue
            for entry in one_by_one((item,)):
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
    with _ArchiveFile(source, name, format, reshape, limits, SMALL_PIECE).renamed() as items:
        return write_archive(
            one_by_one(items),
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
    allowed: int = 0,
    compression: Compression = "zstd",
) -> str:
    """Write `entries` as a deterministic `.tar.zst` through `write`; return the sha256 hex of the tar.

    `allowed` is the maximum number of bytes of content, 0 for that of the limits. Without compression it is a `.tar`.

    Raises:
        ArchiveError: an entry is rejected (any subclass); `archive` is `name`.
        OSError: an operation on `spool` failed.
    """
    with _name_errors(name):
        return write_archive(
            entries,
            limits=limits,
            allowed=allowed or limits.max_total_bytes,
            mtime=mtime,
            spool=spool,
            write=write,
            progress=progress,
            compression=compression,
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
    compression: Compression = "zstd",
) -> str:
    """Write entries with known sizes as a deterministic `.tar.zst` or `.tar`; see `writer.write_in_order`.

    Raises:
        ArchiveError: an entry is rejected (any subclass); `archive` is `name`.
        Exception: any exception raised by `contents`.
    """
    table = EntryValidator(limits, limits.max_total_bytes)
    with _name_errors(name):
        return write_in_order(
            entries, contents, table=table, mtime=mtime, write=write, progress=progress, compression=compression
        )
