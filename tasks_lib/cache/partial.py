"""Partial downloads: bytes and validator survive a kill, and are never used as a blob.

The bytes of a small download stay in memory until they are complete, or until it takes longer than a moment.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final

from tasks_lib.cache.hashing_writer import HashingWriter
from tasks_lib.cache.pieces import Pieces, Span
from tasks_lib.cache.quarantine import Quarantine
from tasks_lib.digest import Integrity
from tasks_lib.errors import CacheUnavailableError, DigestMismatchError, SizeMismatchError
from tasks_lib.fs import files

#: Longest validator that is kept, in characters; a longer one is ignored.
MAX_VALIDATOR: Final = 512
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


#: Largest download whose bytes are kept in memory, and the seconds after which they are written to the file in any
#: case, so that a kill does not lose them.
SMALL: Final = 1 << 20
_MOMENT_S: Final = 0.5

#: errno values for a full disk, an exhausted quota or a file size limit.
_FULL_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def open_partial(
    place: str, quarantine: Callable[[], Path], expected: Integrity, existing_size: int
) -> Iterator[Partial]:
    """Yield the download at `place`; delete it if the disk is full, so that it does not occupy the last space.

    Raises:
        CacheUnavailableError: the cache is not writable.
    """
    try:
        partial = Partial(place, quarantine, expected, existing_size)
    except OSError as error:
        raise files.cache_error(place, error, expected.size) from error
    try:
        yield partial
    except OSError as error:
        if error.errno in _FULL_ERRNOS:
            partial.drop()
        raise files.cache_error(place, error, expected.size) from error
    except CacheUnavailableError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL_ERRNOS:
            partial.drop()
        raise
    finally:
        partial.close()


class Partial:
    """A resumable download; `open_partial` creates it for `Cache.partial`, whose caller holds the lock of its digest.

    `size` is the number of contiguous bytes from the start, all of them hashed. `validator` is the strong
    validator with which the server at `origin` identified them. `artifact` is the name that the content gets together
    with that of its blob, None if something else is to be checked first.
    """

    def __init__(self, place: str, quarantine: Callable[[], Path], expected: Integrity, existing_size: int) -> None:
        """Continue the file at `place`, which has `existing_size` bytes, or begin in memory.

        `quarantine` returns the directory for wrong bytes, and creates it.
        """
        self._place, self._aside = place, quarantine
        self.expected = expected
        self._writer = self._new_writer()
        self._pieces: Pieces | None = None
        self.size = 0
        self.validator = self.origin = ""
        self.artifact: Path | None = None
        self._noted = False
        self._memory = memoryview(b"")  # of the expected bytes and one more, until a file is needed
        self._begun_s = 0.0
        self._file = -1
        if existing_size or expected.size > SMALL:
            self._open()
        else:
            self._memory = memoryview(bytearray(expected.size + 1))
        if existing_size:
            try:
                self._continue(existing_size)
            except BaseException:
                self.close()
                raise

    def _new_writer(self) -> HashingWriter:
        return HashingWriter(self.expected.digest.algorithm, self.expected.size, self.write_at)

    def _open(self) -> None:
        self._file = os.open(self._place, _FLAGS, 0o600)

    @cached_property
    def _path(self) -> Path:
        return Path(self._place)

    def keep(self) -> None:
        """Write bytes in memory to the file, those of a small download after a moment; call during waits.

        The next `space` raises an error of writing; here it would look like one of the connection.
        """
        if self._file >= 0:
            self._writer.flush()
        elif self.size and time.monotonic() - self._begun_s > _MOMENT_S:
            with contextlib.suppress(OSError):
                self._spill()

    def _spill(self) -> None:
        """Continue in the file."""
        if self._file < 0:
            self._open()
            memory, self._memory = self._memory, memoryview(b"")
            self._writer.adopt(memory, self.size)
            try:
                if self.size:
                    self._write_note()
                self.write_at(0, memory[: self.size])
            except OSError as error:
                self._writer.fail(error)
                raise

    @cached_property
    def _note(self) -> Path:
        return self._path.with_suffix(".validator")

    @cached_property
    def _map(self) -> Path:
        return self._path.with_suffix(".pieces")

    def _continue(self, existing_size: int) -> None:
        """Hash the bytes of an earlier run; without their validator the download starts again."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            self.validator, _, self.origin = self._note.read_text("ascii")[: 2 * MAX_VALIDATOR].partition("\n")
            self._noted = True
        has_map = self._map.exists()
        self._pieces = Pieces.load(self._map, total=self.expected.size, existing_size=existing_size)
        if not self.validator or existing_size > self.expected.size or (has_map and self._pieces is None):
            os.ftruncate(self._file, 0)  # otherwise old bytes would remain after the new end
            self._map.unlink(missing_ok=True)
            self._pieces = None
            self.restart("")
            return
        self._measure(self._pieces.end_of_run(0) if self._pieces else existing_size)

    def _measure(self, end: int) -> None:
        """Hash the bytes from `size` to `end`."""
        while self.size < end:
            count = os.preadv(self._file, [self._writer.space(end - self.size)], self.size)
            if not count:
                return
            self._writer.add(count, None)
            self.size += count

    def restart(self, validator: str, origin: str = "") -> None:
        """Drop the bytes; `validator` ("" for none) of `origin` identifies the bytes that follow.

        Raises:
            OSError: writing failed before, or the file system rejects the operation.
        """
        if self.size or self._pieces:
            self._writer.close()
            if self._file >= 0:
                os.ftruncate(self._file, 0)
            self._writer = self._new_writer()
            self.size = 0
        self._drop_pieces()
        self.validator = validator if len(validator) <= MAX_VALIDATOR else ""
        self.origin = origin
        self._drop_note()  # the next one is written before bytes that a later run may continue

    def _write_note(self) -> None:
        """Record validator and origin before bytes arrive; a download in one chunk needs no record."""
        if self.validator and not self._noted:
            descriptor = os.open(self._note, _FLAGS | os.O_TRUNC, 0o600)
            self._noted = True
            try:
                os.write(descriptor, f"{self.validator}\n{self.origin}".encode())
            finally:
                os.close(descriptor)

    def _drop_note(self) -> None:
        if self._noted:
            self._noted = False
            self._note.unlink(missing_ok=True)

    def append(self, chunk: bytes) -> None:
        """Write and hash `chunk`.

        Raises:
            OSError: no space, or another error of the file system.
        """
        left = memoryview(chunk)
        while left:
            space = self.space(len(left))
            space[:], left = left[: len(space)], left[len(space) :]
            self.extend(len(space))

    def space(self, most: int) -> memoryview:
        """Return memory for 1 to `most` of the next bytes; `extend` takes those that were put there.

        Raises:
            OSError: writing earlier bytes failed.
        """
        if self._file < 0:
            return self._memory[self.size : self.size + most]
        return self._writer.space(most)

    def extend(self, count: int) -> None:
        """Hash and write the first `count` bytes of the last `space`; large ones are written soon, at the next `keep`.

        Raises:
            OSError: no space, or another error of the file system.
        """
        if self._file < 0:
            self._begun_s = self._begun_s or time.monotonic()
            self._writer.update(self._memory[self.size : self.size + count])
        else:
            if self._pieces:
                self.join()
            if self.size + count < self.expected.size:
                self._write_note()  # before the bytes
            self._writer.add(count, self.size)
        self.size += count
        if self.size > self.expected.size:
            self._spill()

    def write_at(self, offset: int, chunk: bytes | memoryview) -> None:
        """Write part of a piece, from any thread; `note` then lets a later run use it.

        Raises:
            OSError: no space, or another error of the file system.
        """
        self._spill()
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written

    @property
    def is_split(self) -> bool:
        """Whether pieces may have been written out of order."""
        return self._pieces is not None

    def reading(self) -> BinaryIO:
        """Return a file that reads the bytes received so far; the caller closes it."""
        if self._file < 0:
            return io.BytesIO(self._memory[: self.size])
        self._writer.close()
        return os.fdopen(os.dup(self._file), "rb")

    def split(self, piece: int) -> list[Span]:
        """Return the missing spans, at most `piece` bytes each; from now on pieces may arrive in any order.

        Raises:
            OSError: the file system rejects the operation.
        """
        self._spill()
        self._writer.close()
        self._write_note()
        if self._pieces is None:
            self._pieces = Pieces.begin(self._map, start=self.size, piece=piece, total=self.expected.size)
        return self._pieces.missing()

    def note(self, end: int) -> None:
        """Note that a piece is written up to `end`; its bytes before are not written again.

        Raises:
            OSError: the file system rejects the operation.
        """
        if self._pieces is not None:
            self._pieces.note(end)

    def rest(self, offset: int) -> Span:
        """Return the part of the piece with the byte at `offset` that is missing; it is empty for none."""
        return self._pieces.rest(offset) if self._pieces is not None else (offset, offset)

    def measure(self) -> None:
        """Hash the bytes up to the first gap.

        Raises:
            OSError: the file system rejects the operation.
        """
        if self._pieces is not None:
            self._measure(self._pieces.end_of_run(self.size))

    def join(self) -> None:
        """Drop the bytes after the first gap, so that one connection can continue from there."""
        os.ftruncate(self._file, self.size)
        self._drop_pieces()

    def _drop_pieces(self) -> None:
        if self._pieces is not None:
            self._map.unlink(missing_ok=True)
            self._pieces = None

    def verify(self) -> None:
        """Check size and digest against the expected integrity.

        Raises:
            SizeMismatchError: the size differs.
            DigestMismatchError: the size is right, the content differs.
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
        """The digest of the bytes so far, as `algorithm:hex`."""
        return f"{self.expected.digest.algorithm}:{self._writer.hexdigest()}"

    def take(self) -> memoryview | None:
        """Verify the download and return its content, if that is in memory; the caller publishes it.

        Raises:
            SizeMismatchError, DigestMismatchError: as `verify`.
        """
        if self._file >= 0:
            return None
        self.verify()
        content, self._memory = self._memory[: self.size], memoryview(b"")
        return content

    def publish(self, name: Callable[[int, Path], None], durability: files.Durability) -> None:
        """Verify the download, then call `name`, which gives the open file its final name and removes this one.

        Raises:
            SizeMismatchError, DigestMismatchError: as `verify`.
            OSError: the file system rejects the operation.
        """
        self.verify()
        if os.fstat(self._file).st_size != self.size:
            os.ftruncate(self._file, self.size)  # bytes after the hashed ones are not part of the content
        os.fchmod(self._file, 0o444)
        if durability == "full":
            files.sync_file(self._file)
        name(self._file, self._path)
        self._drop_pieces()
        self._drop_note()
        os.close(self._file)
        self._file = -1

    def quarantine(self, reason: str) -> Path:
        """Move the wrong bytes to quarantine with a note of the reason; return their path, keep an empty partial."""
        self._spill()
        aside = Quarantine(self._aside()).take(self._path, f"{self._writer.hexdigest()}.download", reason)
        os.close(self._file)
        self._file = os.open(self._path, _FLAGS | os.O_TRUNC, 0o600)
        self.restart("")
        return aside

    def drop(self) -> None:
        """Delete the bytes and the notes about them."""
        self._memory = memoryview(b"")
        for name in (self._path, self._note, self._map):
            name.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and remove it if it is empty; closing it again has no effect."""
        with contextlib.suppress(OSError):  # raised before; a later run continues the bytes before it
            self._writer.close()
        if self._memory and self.size and self.validator:  # a later run continues them
            try:
                self._spill()
            except OSError:  # the error that ended the download matters, not that its bytes are lost
                self.drop()
        if self._file < 0:
            return
        empty = os.fstat(self._file).st_size == 0
        os.close(self._file)
        self._file = -1
        if empty:
            self._path.unlink(missing_ok=True)
            self._drop_note()
