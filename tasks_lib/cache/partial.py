"""A download that is not complete yet: bytes and validator survive a kill, and nobody reads them as a blob."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final, Self

from tasks_lib.cache.background_hash import BackgroundHash
from tasks_lib.cache.quarantine import Quarantine
from tasks_lib.digest import Integrity
from tasks_lib.errors import CacheUnavailableError, DigestMismatchError, SizeMismatchError
from tasks_lib.fs import files, system_calls
from tasks_lib.gil import released

#: Longest validator that is kept, in characters; longer ones are no validators.
MAX_VALIDATOR: Final = 512
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


#: What is said when no more bytes go into a file.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def opened(path: Path, quarantine: Path, expected: Integrity) -> Iterator[Partial]:
    """Give the download at `path`; one that finds no space goes, since what takes the last of it helps nobody.

    Raises:
        StoreUnavailableError: the cache cannot be written.
    """
    with files.translated(path, expected.size):
        partial = Partial(path, quarantine, expected)
    full = False
    try:
        with files.translated(path, expected.size):
            yield partial
    except CacheUnavailableError as error:
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL
        raise
    finally:
        partial.close()
        if full:
            for name in (path, path.with_suffix(".validator"), path.with_suffix(".pieces")):
                name.unlink(missing_ok=True)


class Partial:
    """One resumable download; made by `opened` for `Store.partial`, which holds the lock on its digest meanwhile.

    `size` counts the bytes that are there without a gap, all of them measured; `validator` is what the server at
    `origin` said they belong to.
    """

    def __init__(self, path: Path, quarantine: Path, expected: Integrity) -> None:
        self._path = path
        self._quarantine = Quarantine(quarantine)
        self.expected = expected
        self._file = os.open(path, _FLAGS, 0o600)
        self._digest = BackgroundHash(expected.digest.algorithm, expected.size)
        self._pieces: Pieces | None = None
        self.size = 0
        self.validator = self.origin = ""
        self._noted = False
        there = os.fstat(self._file).st_size
        if there:
            self._continue(there)

    @cached_property
    def _note(self) -> Path:
        return self._path.with_suffix(".validator")

    @cached_property
    def _map(self) -> Path:
        return self._path.with_suffix(".pieces")

    def _continue(self, there: int) -> None:
        """Measure what an earlier run left; without its validator it cannot be continued."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            self.validator, _, self.origin = self._note.read_text("ascii")[: 2 * MAX_VALIDATOR].partition("\n")
            self._noted = True
        if not self.validator or there > self.expected.size:
            os.ftruncate(self._file, 0)  # else bytes would stay behind the end of what comes now
            self._map.unlink(missing_ok=True)
            self.restart("")
            return
        self._pieces = Pieces.load(self._map, self.expected.size)
        if self._pieces is None:
            self._map.unlink(missing_ok=True)  # one that cannot be read, if any
        self._measure(self._pieces.end_of_run(0) if self._pieces else there)

    def _measure(self, end: int) -> None:
        """Hash what stands between what was measured and `end`."""
        while self.size < end:
            chunk = os.pread(self._file, min(files.CHUNK, end - self.size), self.size)
            if not chunk:
                return
            self._digest.update(chunk)
            self.size += len(chunk)

    def restart(self, validator: str, origin: str = "") -> None:
        """Drop the bytes; `validator` ("" for none) of `origin` belongs to those that come now."""
        if self.size or self._pieces:
            os.ftruncate(self._file, 0)
            self._digest.close()
            self._digest = BackgroundHash(self.expected.digest.algorithm, self.expected.size)
            self.size = 0
        self._drop_pieces()
        self.validator = validator if len(validator) <= MAX_VALIDATOR else ""
        self.origin = origin
        self._drop_note()  # the next one is written before bytes that may have to be continued

    def _write_note(self) -> None:
        """Say whose bytes these are, before they come; what arrives in one piece needs no note."""
        if self.validator and not self._noted:
            self._noted = True
            descriptor = os.open(self._note, _FLAGS | os.O_TRUNC, 0o600)
            try:
                os.write(descriptor, f"{self.validator}\n{self.origin}".encode())
            finally:
                os.close(descriptor)

    def _drop_note(self) -> None:
        if self._noted:
            self._noted = False
            self._note.unlink(missing_ok=True)

    def append(self, chunk: bytes) -> None:
        """Write and measure `chunk`.

        Raises:
            OSError: no space, or another refusal of the file system.
        """
        if self._pieces:
            self.join()
        if self.size + len(chunk) < self.expected.size:
            self._write_note()
        self.write_at(self.size, chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def write_at(self, offset: int, chunk: bytes | memoryview) -> None:
        """Write a part of a piece, from any thread; `mark` says when the piece is complete.

        Raises:
            OSError: no space, or another refusal of the file system.
        """
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written

    @property
    def is_split(self) -> bool:
        """Whether pieces came, or may have come, in any order."""
        return self._pieces is not None

    def reading(self) -> BinaryIO:
        """Return a file to read what is there from; the caller closes it."""
        return os.fdopen(os.dup(self._file), "rb")

    def split(self, piece: int) -> list[Span]:
        """Return the spans that are missing, at most `piece` bytes each; from now on pieces come in any order.

        Raises:
            OSError: the file system refused.
        """
        self._write_note()
        if self._pieces is None:
            self._pieces = Pieces.begin(self._map, start=self.size, piece=piece, total=self.expected.size)
        return self._pieces.missing()

    def mark(self, begin: int) -> None:
        """Note that the piece that begins there is complete, and measure as far as there is no gap.

        Raises:
            OSError: the file system refused.
        """
        if self._pieces is not None:
            self._pieces.mark(begin)
            self._measure(self._pieces.end_of_run(self.size))

    def join(self) -> None:
        """Drop what lies behind the first gap: one connection goes on from there."""
        os.ftruncate(self._file, self.size)
        self._drop_pieces()

    def _drop_pieces(self) -> None:
        if self._pieces is not None:
            self._map.unlink(missing_ok=True)
            self._pieces = None

    def verify(self) -> None:
        """Return when size and digest are the promised ones.

        Raises:
            SizeMismatchError: another size.
            DigestMismatchError: the right size, other bytes.
        """
        if self.size != self.expected.size:
            more = "more than " if self.size > self.expected.size else ""
            raise SizeMismatchError(
                f"expected {self.expected.size} bytes, got {more}{min(self.size, self.expected.size)}",
                expected=self.expected.size,
                actual=self.size,
            )
        actual = self.digest
        if actual != str(self.expected.digest):
            raise DigestMismatchError(
                f"expected {self.expected.digest}, got {actual}",
                expected=str(self.expected.digest),
                actual=actual,
            )

    @property
    def digest(self) -> str:
        """The digest of the bytes that are there, as `algorithm:hex`."""
        return f"{self.expected.digest.algorithm}:{self._digest.hexdigest()}"

    def publish(self, name: Callable[[int, Path], None], durability: files.Durability) -> None:
        """Verify, then let `name` give the open file its final name and drop this one.

        Raises:
            SizeMismatchError, DigestMismatchError: as `verify`.
            OSError: the file system refused.
        """
        self.verify()
        if os.fstat(self._file).st_size != self.size:
            os.ftruncate(self._file, self.size)  # what stands behind the bytes that were measured is none of them
        os.fchmod(self._file, 0o444)
        if durability == "full":
            with released:
                system_calls.sync(self._file)
        name(self._file, self._path)
        self._drop_pieces()
        self._drop_note()
        os.close(self._file)
        self._file = -1

    def quarantine(self, reason: str) -> Path:
        """Move the wrong bytes aside with a note of the reason; an empty partial remains."""
        aside = self._quarantine.take(self._path, f"{self._digest.hexdigest()}.download", reason)
        os.close(self._file)
        self._file = os.open(self._path, _FLAGS | os.O_TRUNC, 0o600)
        self.restart("")
        return aside

    def close(self) -> None:
        """Close the file; an empty one is removed. Closing again does nothing."""
        self._digest.close()
        if self._file < 0:
            return
        empty = self.size == 0 and os.fstat(self._file).st_size == 0
        os.close(self._file)
        self._file = -1
        if empty:
            self._path.unlink(missing_ok=True)
            self._drop_note()


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
