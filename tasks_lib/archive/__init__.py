"""Archives: bytes <-> a validated stream of entries (tar, its compressed forms, zip) and the deterministic writer.

Owns every byte of archive formats. Refuses what is damaged, ambiguous, too expensive or would leave the destination;
each refusal names archive, entry, offset, reason and code (docs/archives.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from tasks_lib.archive.codecs import beside, decoded, format_for, format_of
from tasks_lib.archive.entries import Entry, Limits, Reshape, Table, reshaped
from tasks_lib.archive.repack import REPACK_VERSION, write_archive
from tasks_lib.archive.tar import TarReader
from tasks_lib.archive.zip import ZipReader
from tasks_lib.errors import ArchiveError
from tasks_lib.progress import Progress

__all__ = ["REPACK_VERSION", "Entry", "Limits", "Reshape", "Table", "format_for", "format_of", "read", "repack"]


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
