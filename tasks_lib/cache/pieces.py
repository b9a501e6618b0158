"""The pieces of a download that several connections receive, and how much of each is in the file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, Self

#: Maximum number of pieces in a valid map: 4 TiB at 64 MiB each, the largest piece size.
_MAX_PIECES: Final = 1 << 16
#: Last word of the first line of a map. Format: the line `start piece 2`, then for each piece the number of its bytes
#: in the file, 8 bytes each. Little-endian: of a write that a kill ends, the lowest bytes come first, so that the
#: number is never too large.
_FORMAT: Final = "2"
_WIDTH: Final = 8

Span = tuple[int, int]


class Pieces:
    """The pieces of `[start, total)`, `piece` bytes each, and the file that maps how much of each is written."""

    def __init__(self, path: Path, start: int, piece: int, total: int) -> None:
        self._path, self.start, self.piece, self._total = path, start, piece, total
        self._written = [0] * -(-(total - start) // piece)
        self._head = f"{start} {piece} {_FORMAT}\n".encode()

    @classmethod
    def begin(cls, path: Path, *, start: int, piece: int, total: int) -> Self:
        """Write a map of pieces without bytes.

        Raises:
            OSError: the file system rejects the operation.
        """
        pieces = cls(path, start, piece, total)
        path.write_bytes(pieces._head)
        return pieces

    @classmethod
    def load(cls, path: Path, *, total: int, existing_size: int) -> Self | None:
        """Return the map that an earlier run left of a file of `existing_size` bytes, None if it is unreadable."""
        with contextlib.suppress(OSError, ValueError):
            head, _, written = path.read_bytes().partition(b"\n")
            *numbers, kind = head.decode("ascii").split()
            start, piece = map(int, numbers)
            is_valid = (
                0 <= start < total and start <= existing_size and piece > 0 and total - start <= piece * _MAX_PIECES
            )
            if kind == _FORMAT and is_valid:
                pieces = cls(path, start, piece, total)
                pieces._read(written, existing_size)
                return pieces
        return None

    def _read(self, written: bytes, existing_size: int) -> None:
        for index in range(min(len(self._written), len(written) // _WIDTH)):
            begin, end = self._span(index)
            count = int.from_bytes(written[index * _WIDTH : (index + 1) * _WIDTH], "little")
            self._written[index] = max(0, min(count, end - begin, existing_size - begin))

    def missing(self) -> list[Span]:
        """Return the spans that are not written, at most one in each piece, in order."""
        spans = [self.rest(self._span(index)[0]) for index in range(len(self._written))]
        return [(begin, end) for begin, end in spans if begin < end]

    def rest(self, offset: int) -> Span:
        """Return the part that is not written of the piece with the byte at `offset`; it is empty for none."""
        index = (offset - self.start) // self.piece
        begin, end = self._span(index)
        return begin + self._written[index], end

    def _span(self, index: int) -> Span:
        """Return the first byte of a piece, and the one after its last."""
        begin = self.start + index * self.piece
        return begin, min(begin + self.piece, self._total)

    def note(self, end: int) -> None:
        """Note that the piece with the byte before `end` is written up to there; one thread at a time for a piece.

        Raises:
            OSError: the file system rejects the operation.
        """
        index = (end - 1 - self.start) // self.piece
        count = end - self._span(index)[0]
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.pwrite(descriptor, count.to_bytes(_WIDTH, "little"), len(self._head) + index * _WIDTH)
        finally:
            os.close(descriptor)
        self._written[index] = count

    def end_of_run(self, offset: int) -> int:
        """Return the offset of the first gap at or after `offset`; the bytes before `offset` are complete."""
        offset = max(offset, self.start)
        while offset < self._total:
            begin, end = self.rest(offset)
            if begin < end:
                return max(begin, offset)
            offset = end
        return offset
