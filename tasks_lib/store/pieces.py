r"""Pieces: which parts of a download that several connections feed are there; survives a kill.

The map is a file beside the download: `start size\n`, then one character a piece. A piece is marked after its bytes
were written, so that a process that is killed leaves no mark without bytes. After a power loss the digest tells.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, Self

#: Most pieces of a map that is believed: at 64 MiB each, the largest that are made, 4 TiB.
_MOST: Final = 1 << 16

Span = tuple[int, int]


class Pieces:
    """The parts of `[start, total)`, `piece` bytes each."""

    def __init__(self, path: Path, start: int, piece: int, total: int, done: bytes) -> None:
        self._path, self.start, self.piece, self._total = path, start, piece, total
        count = -(-(total - start) // piece)
        self._done = bytearray(done[:count].ljust(count, b"0"))
        self._head = len(f"{start} {piece}\n")

    @classmethod
    def begin(cls, path: Path, *, start: int, piece: int, total: int) -> Self:
        """Write a map of which nothing is there.

        Raises:
            OSError: the file system refused.
        """
        made = cls(path, start, piece, total, b"")
        path.write_bytes(f"{start} {piece}\n".encode() + made._done)
        return made

    @classmethod
    def load(cls, path: Path, total: int) -> Self | None:
        """Return the map that an earlier run left, None when there is none that can be read."""
        with contextlib.suppress(OSError, ValueError):
            head, _, done = path.read_bytes().partition(b"\n")
            start, piece = map(int, head.split())
            if 0 <= start < total and piece > 0 and total - start <= piece * _MOST:
                return cls(path, start, piece, total, done)
        return None

    def missing(self) -> list[Span]:
        """Return the spans whose bytes are not there, in order."""
        return [self.span(index) for index, mark in enumerate(self._done) if mark != ord("1")]

    def span(self, index: int) -> Span:
        """Return where a piece begins and ends."""
        begin = self.start + index * self.piece
        return begin, min(begin + self.piece, self._total)

    def mark(self, begin: int) -> None:
        """Note that the piece that begins there is complete.

        Raises:
            OSError: the file system refused.
        """
        index = (begin - self.start) // self.piece
        self._done[index] = ord("1")
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.pwrite(descriptor, b"1", self._head + index)
        finally:
            os.close(descriptor)

    def end_of_run(self, offset: int) -> int:
        """Return how far the bytes are there without a gap, `offset` being known to be."""
        while offset < self._total:
            index = (offset - self.start) // self.piece
            if offset >= self.start and self._done[index] != ord("1"):
                break
            offset = self.span(index)[1] if offset >= self.start else self.start
        return offset
