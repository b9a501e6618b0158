"""Maps of sparse files: where the stored pieces stand, judged before a byte is made.

Formats: old GNU (in the header and blocks after it), pax 0.0 and 0.1 (in the pax header), pax 1.0 (before the data).
Source: GNU tar manual, "Storing Sparse Files"; GNU tar, src/tar.h for the old one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tasks_lib.archive.entries import damaged, limit, unsafe, unsupported
from tasks_lib.archive.stream import BLOCK, Stream, decimal, number

#: Most pieces of one sparse file.
MAX_PIECES: Final = 65_536
#: Digits of the largest number, 2^63 - 1.
_DIGITS: Final = 19
#: Pieces in one extension block of the old format.
_OLD_PIECES: Final = 21


class Sparse(NamedTuple):
    """A sparse file: effective name, apparent size, pieces as (start, size), bytes of data that the map took."""

    name: bytes
    real: int
    pieces: list[tuple[int, int]]
    used: int


def old_gnu(block: bytes, stream: Stream, size: int, name: bytes, offset: int) -> Sparse:
    """Return the map of an old GNU sparse file, reading its extension blocks.

    Raises:
        DamagedArchiveError, ArchiveLimitError: it is broken, or too long.
    """
    real = number(block[483:495], "real size", offset)
    return _checked(Sparse(name, real, _old_pieces(block, stream, offset), 0), size, offset)


def _old_pieces(block: bytes, stream: Stream, offset: int) -> list[tuple[int, int]]:
    fields, more = block[386:482], block[482]
    pieces: list[tuple[int, int]] = []
    for _ in range(MAX_PIECES // _OLD_PIECES):
        for at in range(0, len(fields) - 23, 24):
            if fields[at : at + 24].strip(b"\0 "):
                first = number(fields[at : at + 12], "sparse offset", offset)
                pieces.append((first, number(fields[at + 12 : at + 24], "sparse size", offset)))
        if not more:
            return pieces
        extension = stream.exact(BLOCK)
        fields, more = extension[:504], extension[504]
    raise limit(f"more than {MAX_PIECES} pieces of a sparse file", "SPARSE", offset=offset)


def in_pax(pax: dict[bytes, bytes], stream: Stream, size: int, name: bytes, offset: int) -> Sparse:
    """Return the map that pax records tell; format 1.0 is read from the data.

    Raises:
        DamagedArchiveError, ArchiveLimitError, UnsupportedArchiveError: broken, too long, or of another format.
    """
    if pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
        real = decimal(pax.get(b"GNU.sparse.realsize", b""), "real size", offset)
        pieces, used = _leading_map(stream, size, offset)
    elif b"GNU.sparse.major" not in pax:  # format 0.1; 0.0 was brought to it
        real = decimal(pax.get(b"GNU.sparse.size", b""), "real size", offset)
        pieces, used = _inline_map(pax, offset), 0
    else:
        raise unsupported("a sparse file of an unknown pax format", "SPARSE", name, offset)
    named = pax.get(b"GNU.sparse.name", name)
    if b"\0" in named:
        raise unsafe("has a NUL in its name", "NAME_CONTROL", named, offset)
    return _checked(Sparse(named, real, pieces, used), size, offset)


def _leading_map(stream: Stream, size: int, offset: int) -> tuple[list[tuple[int, int]], int]:
    """Read the map that stands before the data: decimal numbers, one a line, padded to a block."""
    numbers: list[int] = []
    used, text, wanted = 0, b"", 1
    while len(numbers) < wanted:
        if used + BLOCK > size:
            raise damaged("a sparse map without end", "SPARSE", offset=offset)
        text += stream.exact(BLOCK)
        used += BLOCK
        *lines, text = text.split(b"\n")
        if len(text) > _DIGITS and len(numbers) + len(lines) < wanted:
            raise damaged("a broken sparse map", "SPARSE", offset=offset)
        numbers += [decimal(line, "sparse map", offset) for line in lines[: wanted - len(numbers)]]
        if wanted == 1 and numbers:
            wanted = 1 + 2 * numbers[0]
            if numbers[0] > MAX_PIECES:
                raise limit(f"more than {MAX_PIECES} pieces of a sparse file", "SPARSE", offset=offset)
            numbers += [decimal(line, "sparse map", offset) for line in lines[1:wanted]]
    return list(zip(numbers[1::2], numbers[2::2], strict=True)), used


def _inline_map(pax: dict[bytes, bytes], offset: int) -> list[tuple[int, int]]:
    """Return the map that stands in a pax header as numbers with commas between them."""
    text = pax.get(b"GNU.sparse.map", b"")
    numbers = [decimal(one, "sparse map", offset) for one in text.split(b",")] if text else []
    pieces = list(zip(numbers[::2], numbers[1::2], strict=False))
    if 2 * len(pieces) != len(numbers) or pax.get(b"GNU.sparse.numblocks") != str(len(pieces)).encode():
        raise damaged("a sparse map that is not as long as it says", "SPARSE", offset=offset)
    if len(pieces) > MAX_PIECES:
        raise limit(f"more than {MAX_PIECES} pieces of a sparse file", "SPARSE", offset=offset)
    return pieces


def _checked(sparse: Sparse, size: int, offset: int) -> Sparse:
    at = 0
    for first, length in sparse.pieces:
        if first < at or first + length > sparse.real:
            raise damaged("its sparse map overlaps or leaves the file", "SPARSE", sparse.name, offset)
        at = first + length
    if sum(length for _, length in sparse.pieces) != size - sparse.used:
        raise damaged("its sparse map does not fit to its data", "SPARSE", sparse.name, offset)
    return sparse
