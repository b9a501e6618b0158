"""A download that is not complete yet: bytes and validator survive a kill, and nobody reads them as a blob."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tasks_lib.digest import Integrity
from tasks_lib.errors import DigestMismatchError, SizeMismatchError
from tasks_lib.store import files

#: Longest validator that is kept, in characters; longer ones are no validators.
MAX_VALIDATOR: Final = 512


class Partial:
    """One resumable download; made by `Store.partial`, which holds the lock on its digest meanwhile.

    `size` counts the bytes that are there; `validator` is what the server said they belong to.
    """

    def __init__(self, path: Path, quarantine: Path, expected: Integrity) -> None:
        self._path = path
        self._note = path.with_suffix(".validator")
        self._quarantine = quarantine
        self.expected = expected
        self.validator = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            self.validator = self._note.read_text("utf-8")[:MAX_VALIDATOR]
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
        self._digest = hashlib.new(expected.digest.algorithm)
        self.size = 0
        self._measure_present()

    def _measure_present(self) -> None:
        """Hash what an earlier run left; without its validator it cannot be continued."""
        if not self.validator or os.fstat(self._file.fileno()).st_size > self.expected.size:
            self.restart("")
            return
        while chunk := self._file.read(files.CHUNK):
            self._digest.update(chunk)
            self.size += len(chunk)

    def restart(self, validator: str) -> None:
        """Drop the bytes; `validator` ("" for none) belongs to those that come now."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.new(self.expected.digest.algorithm)
        self.size = 0
        self.validator = validator if len(validator) <= MAX_VALIDATOR else ""
        if self.validator:
            self._note.write_text(self.validator, "utf-8")
        else:
            self._note.unlink(missing_ok=True)

    def append(self, chunk: bytes) -> None:
        """Write and measure `chunk`.

        Raises:
            OSError: no space, or another refusal of the file system.
        """
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]
        self._digest.update(chunk)
        self.size += len(chunk)

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
        actual = f"{self.expected.digest.algorithm}:{self._digest.hexdigest()}"
        if actual != str(self.expected.digest):
            raise DigestMismatchError(
                f"expected {self.expected.digest}, got {actual}",
                expected=str(self.expected.digest),
                actual=actual,
            )

    def publish(self, name: Callable[[int, Path], None], durability: files.Durability) -> None:
        """Verify, then let `name` give the open file its final name and drop this one.

        Raises:
            SizeMismatchError, DigestMismatchError: as `verify`.
            OSError: the file system refused.
        """
        self.verify()
        os.fchmod(self._file.fileno(), 0o444)
        if durability == "full":
            os.fsync(self._file.fileno())
        name(self._file.fileno(), self._path)
        self._note.unlink(missing_ok=True)

    def quarantine(self, reason: str) -> Path:
        """Move the wrong bytes aside with a note of the reason; an empty partial remains."""
        self._quarantine.mkdir(parents=True, exist_ok=True)
        aside = self._quarantine / f"{self._digest.hexdigest()}.download"
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
            self._path.replace(aside)
            aside.with_suffix(".reason").write_text(f"{reason}\n", "utf-8")
        self._file.close()
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._path, flags, 0o600), "r+b", buffering=0)
        self.restart("")
        return aside

    def close(self) -> None:
        """Close the file; an empty one is removed."""
        self._file.close()
        if self.size == 0:
            self._path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)
