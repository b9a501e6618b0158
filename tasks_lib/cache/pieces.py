"""The pieces of a download that several connections receive, and which of them are complete."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, Self

#: Maximum number of pieces in a valid map: 4 TiB at 64 MiB each, the largest piece size.
_MAX_PIECES: Final = 1 << 16

Span = tuple[int, int]


class Pieces:
    """The pieces of `[start, total)`, `piece` bytes each, and the file that maps which are complete."""

    def __init__(self, path: Path, start: int, piece: int, total: int, done: bytes) -> None:
        self._path, self.start, self.piece, self._total = path, start, piece, total
        count = -(-(total - start) // piece)
        self._done = bytearray(done[:count].ljust(count, b"0"))
        self._head = len(f"{start} {piece}\n")

    @classmethod
    def begin(cls, path: Path, *, start: int, piece: int, total: int) -> Self:
        """Write a map without complete pieces.

        Raises:
            OSError: the file system rejects the operation.
        """
        pieces = cls(path, start, piece, total, b"")
        path.write_bytes(f"{start} {piece}\n".encode() + pieces._done)
        return pieces

    @classmethod
    def load(cls, path: Path, total: int) -> Self | None:
        """Return the map that an earlier run left, None if it is missing or unreadable."""
        with contextlib.suppress(OSError, ValueError):
            head, _, done = path.read_bytes().partition(b"\n")
            start, piece = map(int, head.split())
            if 0 <= start < total and piece > 0 and total - start <= piece * _MAX_PIECES:
                return cls(path, start, piece, total, done)
        return None

    def missing(self) -> list[Span]:
        """Return the spans of the incomplete pieces, in order."""
        return [self.span(index) for index, mark in enumerate(self._done) if mark != ord("1")]

    def span(self, index: int) -> Span:
        """Return the first byte of a piece, and the one after its last."""
        begin = self.start + index * self.piece
        return begin, min(begin + self.piece, self._total)

    def mark(self, begin: int) -> None:
        """Mark the piece that starts at `begin` as complete.

        Raises:
            OSError: the file system rejects the operation.
        """
        index = (begin - self.start) // self.piece
        self._done[index] = ord("1")
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.pwrite(descriptor, b"1", self._head + index)
        finally:
            os.close(descriptor)

    def end_of_run(self, offset: int) -> int:
        """Return the offset of the first gap at or after `offset`; the bytes before `offset` are complete."""
        while offset < self._total:
            index = (offset - self.start) // self.piece
            if offset >= self.start and self._done[index] != ord("1"):
                break
            offset = self.span(index)[1] if offset >= self.start else self.start
        return offset
