"""Archives: bytes <-> a validated stream of entries (tar, its compressed forms, zip) and the deterministic writer.

Owns every byte of archive formats. Refuses what is damaged, ambiguous, too expensive or would leave the destination;
each refusal names archive, entry, offset, reason and code (docs/archives.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from tasks_lib.archive.codecs import beside, decoded, format_for, format_of
from tasks_lib.archive.entries import SYMLINK, Entry, Limits, Reshape, Table, checked_path, reshaped, unsafe
from tasks_lib.archive.repack import REPACK_VERSION, write_archive
from tasks_lib.archive.tar import TarReader
from tasks_lib.archive.zip import ZipReader
from tasks_lib.errors import ArchiveError
from tasks_lib.progress import Progress

__all__ = [
    "REPACK_VERSION",
    "Entry",
    "Limits",
    "Reshape",
    "Table",
    "entry_of",
    "format_for",
    "format_of",
    "read",
    "repack",
    "write",
]


@contextlib.contextmanager
def _named(archive: str) -> Iterator[None]:
    """Add the archive's name to a refusal."""
    try:
        yield
    except ArchiveError as error:
        if error.archive:
            raise
        raise type(error).of(error, archive=archive) from error.__cause__


@contextlib.contextmanager
def _entries(source: BinaryIO, kind: str, limits: Limits) -> Iterator[Iterator[Entry]]:
    if kind == "zip":
        yield ZipReader(source, limits).entries()
        return
    # closed here and now: its thread reads `source`, which the caller may close next
    with contextlib.closing(beside(decoded(source, kind, limits))) as chunks:
        yield TarReader(chunks, limits).entries()


def read(
    source: BinaryIO, *, name: str, format: str, reshape: Reshape, limits: Limits, sink: Callable[[Entry], None]
) -> Table:
    """Give every entry that is accepted to `sink`, parents first, in the archive's order; return the judged tree.

    A sink may only believe the tree once this returned: symlinks and the archive's end are judged last.

    Raises:
        ArchiveError: one of its kinds, with the name `name`.
    """
    table = Table(limits)
    with _named(name), _entries(source, format, limits) as entries:
        for entry in entries:
            renamed = reshaped(entry, reshape, limits)
            for new in table.add(renamed) if renamed is not None else ():
                sink(new)
        table.check_links()
    return table


def repack(
    source: BinaryIO,
    *,
    name: str,
    format: str,
    reshape: Reshape,
    limits: Limits,
    spool: BinaryIO,
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    """Write the deterministic `.tar.zst` of an archive through `write`; return the sha256 hex of its tar.

    Raises:
        ArchiveError: one of its kinds, with the name `name`.
        OSError: `spool` failed.
    """
    with _named(name), _entries(source, format, limits) as entries:
        return write_archive(entries, reshape=reshape, limits=limits, spool=spool, write=write, progress=progress)


def entry_of(path: bytes, kind: str, limits: Limits, **more: Any) -> Entry:
    """Return an entry that comes from no archive, its path and link target judged like those of one.

    Raises:
        ArchiveError: absolute, `..`, control characters, too long, or no usable link target.
    """
    entry = Entry(checked_path(path, limits, 0), kind, **more)
    if kind == SYMLINK and (not entry.target or b"\0" in entry.target or len(entry.target) > limits.max_path_bytes):
        raise unsafe("has an empty or unusable link target", "LINK_TARGET", path)
    return entry


def write(
    entries: Iterator[Entry],
    *,
    name: str,
    limits: Limits,
    spool: BinaryIO,
    write: Callable[[bytes], object],
    progress: Progress,
) -> str:
    """Write the deterministic `.tar.zst` of `entries` through `write`; return the sha256 hex of its tar.

    Raises:
        ArchiveError: one of its kinds, with the name `name`.
        OSError: `spool` failed.
    """
    with _named(name):
        return write_archive(entries, reshape=Reshape(), limits=limits, spool=spool, write=write, progress=progress)
