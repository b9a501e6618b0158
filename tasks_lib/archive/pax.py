"""Extension headers of tar entries: pax records, GNU long names and sparse maps.

A record that only some readers honour is rejected, so that all readers see the same archive. Source: POSIX.1-2017 pax,
pax Extended Header; GNU tar manual "Storing Sparse Files"; star(4) for SCHILY.*; libarchive tar(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tasks_lib.archive.entries import damaged_archive, limit_exceeded, unsafe_entry, unsupported_archive
from tasks_lib.archive.exact_reader import BLOCK, ExactReader, parse_decimal, parse_number

SPARSE: Final = b"GNU.sparse."
_PIECES: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
#: Pax keywords of multi-volume files and dump directories.
_REFUSED: Final = (b"GNU.volume.filename", b"GNU.volume.offset", b"GNU.volume.size", b"GNU.dumpdir", b"SCHILY.dir")
#: Keywords that name an entry or set its size; in a global header, for all entries, they make no sense.
_FRAMING: Final = frozenset({b"path", b"linkpath", b"size", b"SCHILY.realsize", b"SCHILY.filetype", *_REFUSED})


@dataclass(slots=True)
class PendingExtensions:
    """Extension data that applies to the next entry."""

    pax: dict[bytes, bytes] = field(default_factory=dict)
    name: bytes | None = None
    link: bytes | None = None

    def __bool__(self) -> bool:
        return bool(self.pax) or self.name is not None or self.link is not None

    def add(self, kind: bytes, data: bytes, offset: int) -> None:
        """Add one extension header: `x` or `X` (Solaris), `g`, `L`, `K` or `V`.

        Raises:
            DamagedArchiveError: the header is malformed.
            UnsafeEntryError: readers would interpret the header differently.
        """
        if kind in b"gV":
            # some readers would apply the pending header to this one
            if self:
                raise unsafe_entry("an extension header without an entry", "PAX_TWICE", offset=offset)
            _check_global(kind, data, offset)
        elif kind in b"xX":
            if self:
                raise unsafe_entry("two extension headers for one entry", "PAX_TWICE", offset=offset)
            self.pax = _records(data, offset) or {b"": b""}
            if bad := [key for key in _REFUSED if key in self.pax]:
                raise unsafe_entry(
                    f"is part of a multi-volume or dump archive ({bad[0].decode()})", "TYPE", b"", offset
                )
        else:
            self._add_gnu(kind, data, offset)

    def _add_gnu(self, kind: bytes, data: bytes, offset: int) -> None:
        text = data.rstrip(b"\0")
        if b"\0" in text or not text:
            raise damaged_archive("a GNU long name that is empty or contains a NUL", "GNU_NAME", offset=offset)
        if self.pax or (self.name if kind == b"L" else self.link) is not None:
            raise unsafe_entry("two extension headers for one entry", "PAX_TWICE", offset=offset)
        if kind == b"L":
            self.name = text
        else:
            self.link = text


def _check_global(kind: bytes, data: bytes, offset: int) -> None:
    if kind == b"V":  # a volume label names the archive, not an entry
        if data:
            raise unsafe_entry("a volume label with content", "LINK_WITH_CONTENT", offset=offset)
        return
    for key in _records(data, offset):
        if key in _FRAMING or key.startswith(SPARSE):
            raise unsafe_entry(
                f"a global header sets {key[:40].decode('ascii', 'replace')!r}", "PAX_GLOBAL", offset=offset
            )


def _records(data: bytes, offset: int) -> dict[bytes, bytes]:
    """Return the records; each is a line `LENGTH KEY=VALUE`.

    Raises:
        DamagedArchiveError: a record has a wrong length, no newline or an empty keyword, or a sparse map is malformed.
        UnsafeEntryError: a keyword or a sparse map is repeated.
    """
    records: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    for key, value in _lines(data, offset):
        if key in _PIECES:  # sparse format 0.0 repeats these two alternately
            if key != _PIECES[len(pieces) % 2]:
                raise damaged_archive("invalid sparse map", "SPARSE", offset=offset)
            pieces.append(value)
        elif key in records:
            raise unsafe_entry(f"a pax header sets {key[:40]!r} twice", "PAX_TWICE", offset=offset)
        else:
            records[key] = value
    if pieces and records.setdefault(b"GNU.sparse.map", b",".join(pieces)) != b",".join(pieces):
        raise unsafe_entry("two sparse maps", "PAX_TWICE", offset=offset)
    return records


def _lines(data: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            raise damaged_archive("invalid pax record", "PAX_RECORD", offset=offset)
        end = at + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n" or not key or not equals:
            raise damaged_archive("invalid pax record", "PAX_RECORD", offset=offset)
        yield key, value
        at = end


#: Maximum number of pieces of one sparse file.
MAX_PIECES: Final = 65_536
#: Maximum number of pieces of all sparse files of an archive: reading a million takes a few seconds.
MAX_ALL_PIECES: Final = 1_000_000
#: Digits of the largest number, 2^63 - 1.
_DIGITS: Final = 19
#: Pieces in one extension block of the old format.
_OLD_PIECES: Final = 21


class SparseMap(NamedTuple):
    """A sparse file: effective name, apparent size, pieces as (start, size), and size of the map within the data."""

    name: bytes
    real: int
    pieces: list[tuple[int, int]]
    used: int


def read_old_gnu_sparse(block: bytes, stream: ExactReader, size: int, name: bytes, offset: int) -> SparseMap:
    """Return the map of an old GNU sparse file; read its extension blocks from `stream`.

    Raises:
        DamagedArchiveError, ArchiveLimitError: the map is malformed or too long.
    """
    real = parse_number(block[483:495], "real size", offset)
    return _check_map(SparseMap(name, real, _old_pieces(block, stream, offset), 0), size, offset)


def _old_pieces(block: bytes, stream: ExactReader, offset: int) -> list[tuple[int, int]]:
    fields, more = block[386:482], block[482]
    pieces: list[tuple[int, int]] = []
    for _ in range(MAX_PIECES // _OLD_PIECES):
        for at in range(0, len(fields) - 23, 24):
            if fields[at : at + 24].strip(b"\0 "):
                first = parse_number(fields[at : at + 12], "sparse offset", offset)
                pieces.append((first, parse_number(fields[at + 12 : at + 24], "sparse size", offset)))
        if not more:
            return pieces
        extension = stream.exact(BLOCK)
        fields, more = extension[:504], extension[504]
    raise limit_exceeded(f"a sparse file with more than {MAX_PIECES} pieces", "SPARSE", offset=offset)


def read_pax_sparse(pax: dict[bytes, bytes], stream: ExactReader, size: int, name: bytes, offset: int) -> SparseMap:
    """Return the sparse map from pax records, or from the start of the data for format 1.0.

    Raises:
        DamagedArchiveError, ArchiveLimitError, UnsupportedArchiveError: the map is malformed, too long, or in an
            unknown format.
    """
    if pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
        real = parse_decimal(pax.get(b"GNU.sparse.realsize", b""), "real size", offset)
        pieces, used = _leading_map(stream, size, offset)
    elif b"GNU.sparse.major" not in pax:  # format 0.1; `_records` converts 0.0 to it
        real = parse_decimal(pax.get(b"GNU.sparse.size", b""), "real size", offset)
        pieces, used = _inline_map(pax, offset), 0
    else:
        raise unsupported_archive("a sparse file of an unknown pax format", "SPARSE", name, offset)
    named = pax.get(b"GNU.sparse.name", name)
    if b"\0" in named:
        raise unsafe_entry("has a NUL character in its name", "NAME_CONTROL", named, offset)
    return _check_map(SparseMap(named, real, pieces, used), size, offset)


def _leading_map(stream: ExactReader, size: int, offset: int) -> tuple[list[tuple[int, int]], int]:
    """Read the map before the data: one decimal number per line, padded to a block."""
    numbers: list[int] = []
    used, text, wanted = 0, b"", 1
    while len(numbers) < wanted:
        if used + BLOCK > size:
            raise damaged_archive("a sparse map that does not end", "SPARSE", offset=offset)
        text += stream.exact(BLOCK)
        used += BLOCK
        *lines, text = text.split(b"\n")
        if len(text) > _DIGITS and len(numbers) + len(lines) < wanted:
            raise damaged_archive("invalid sparse map", "SPARSE", offset=offset)
        numbers += [parse_decimal(line, "sparse map", offset) for line in lines[: wanted - len(numbers)]]
        if wanted == 1 and numbers:
            wanted = 1 + 2 * numbers[0]
            if numbers[0] > MAX_PIECES:
                raise limit_exceeded(f"a sparse file with more than {MAX_PIECES} pieces", "SPARSE", offset=offset)
            numbers += [parse_decimal(line, "sparse map", offset) for line in lines[1:wanted]]
    return list(zip(numbers[1::2], numbers[2::2], strict=True)), used


def _inline_map(pax: dict[bytes, bytes], offset: int) -> list[tuple[int, int]]:
    """Return the map from a pax header, where it is a comma-separated list of numbers."""
    text = pax.get(b"GNU.sparse.map", b"")
    numbers = [parse_decimal(one, "sparse map", offset) for one in text.split(b",")] if text else []
    pieces = list(zip(numbers[::2], numbers[1::2], strict=False))
    if 2 * len(pieces) != len(numbers) or pax.get(b"GNU.sparse.numblocks") != str(len(pieces)).encode():
        raise damaged_archive("a sparse map whose length differs from the declared one", "SPARSE", offset=offset)
    if len(pieces) > MAX_PIECES:
        raise limit_exceeded(f"a sparse file with more than {MAX_PIECES} pieces", "SPARSE", offset=offset)
    return pieces


def _check_map(sparse: SparseMap, size: int, offset: int) -> SparseMap:
    at = 0
    for first, length in sparse.pieces:
        if first < at or first + length > sparse.real:
            raise damaged_archive("the sparse map has overlaps or exceeds the file size", "SPARSE", sparse.name, offset)
        at = first + length
    if sum(length for _, length in sparse.pieces) != size - sparse.used:
        raise damaged_archive("the sparse map does not match the size of the data", "SPARSE", sparse.name, offset)
    return sparse
