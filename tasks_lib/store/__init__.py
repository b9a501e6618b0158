"""The store: owns `cache/`, and nobody else writes there.

Invariant: an entry is either absent, or complete and exactly the pinned bytes; nothing that a failing run does
can change or remove another entry. Bytes become a blob by one rename after they were measured and synced.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import BlobCorruptError, BlobMissingError, DigestMismatchError, SizeMismatchError
from tasks_lib.progress import Progress, Silent
from tasks_lib.store import files
from tasks_lib.store.partial import Partial

__all__ = ["Partial", "Result", "Store", "Writer"]

#: Raised when the layout changes; the old directory can then be deleted.
FORMAT: Final = "v1"
#: Seconds to wait for another process; a download of some gigabytes fits.
LOCK_TIMEOUT_S: Final = 1800.0
#: Source: https://bford.info/cachedir/
_CACHEDIR_TAG: Final = "Signature: 8a477f597d28d172789f06886806bc55\n# cache of doit-fetch; may be deleted\n"

Provenance = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a recipe key gave: the integrity of its output, and where it came from."""

    key: str
    integrity: Integrity
    provenance: Provenance = field(default_factory=dict)


class Writer:
    """Bytes on their way to become a blob; made by `Store.writer`."""

    def __init__(self, store: Store, file: BinaryIO, path: Path) -> None:
        self._store, self._file, self._path = store, file, path
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> int:
        """Write and measure.

        Raises:
            StoreUnavailableError: no space, or another refusal of the file system.
        """
        try:
            self._file.write(chunk)
        except OSError as error:
            raise files.unusable(self._path, error) from error
        self._digest.update(chunk)
        self.size += len(chunk)
        return len(chunk)

    def commit(self, expected: Integrity | None = None) -> Integrity:
        """Publish what was written and return its integrity.

        Raises:
            SizeMismatchError, DigestMismatchError: it is not what `expected` promises; nothing is published.
            StoreUnavailableError: the file system refused.
        """
        actual = Integrity(size=self.size, digest=Digest.sha256(self._digest.hexdigest()))
        if expected is not None and actual != expected:
            _raise_mismatch(expected, actual)
        try:
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o444)
            os.fsync(self._file.fileno())
            self._store.adopt(self._path, actual)
        except OSError as error:
            raise files.unusable(self._path, error) from error
        return actual


def _raise_mismatch(expected: Integrity, actual: Integrity) -> None:
    if expected.size != actual.size:
        raise SizeMismatchError(
            f"expected {expected.size} bytes, got {actual.size}", expected=expected.size, actual=actual.size
        )
    raise DigestMismatchError(
        f"expected {expected.digest}, got {actual.digest}",
        expected=str(expected.digest),
        actual=str(actual.digest),
    )


class Store:
    """Content-addressed blobs, results and partial downloads under `root`/v1."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._top = root / FORMAT
        self._memo = files.Memo(self._top / "measured")

    # --- places

    def path(self, digest: Digest) -> Path:
        """Return where the blob of that digest is or would be."""
        return self._top / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex

    def _directory(self, name: str) -> Path:
        """Return a directory of the cache, made when missing.

        Raises:
            StoreUnavailableError: it cannot be made.
        """
        path = self._top / name
        try:
            if not path.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                tag = self.root / "CACHEDIR.TAG"
                if not tag.exists():
                    tag.write_text(_CACHEDIR_TAG, "ascii")
        except OSError as error:
            raise files.unusable(path, error) from error
        return path

    def repository(self, name: str) -> Path:
        """Return where the bare repository `name` (hex digits) is or would be; hold `lock` of its name to change it.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        return self._directory("repositories") / name

    # --- reading

    def has(self, integrity: Integrity) -> bool:
        """Whether the blob is here and unchanged since it was measured; one lstat when warm.

        A blob whose file changed is measured again: right bytes are believed, others go to quarantine.
        """
        path = self.path(integrity.digest)
        try:
            status = path.lstat()
        except OSError:
            return False
        stamp = files.Stamp.of(status)
        if stamp.size == integrity.size and self._memo.get(stamp) == integrity.digest.hex:
            return True
        try:
            self.open(integrity).close()
        except (BlobMissingError, BlobCorruptError):
            return False
        return True

    def open(self, integrity: Integrity) -> BinaryIO:
        """Open a blob; what is read from the returned file is what was measured.

        Raises:
            BlobMissingError: it is not here.
            BlobCorruptError: it was here and is not the pinned bytes; it is in quarantine now.
        """
        path = self.path(integrity.digest)
        try:
            file = files.open_regular(path)
        except FileNotFoundError as error:
            raise BlobMissingError(f"the cache does not hold {integrity.digest}") from error
        except OSError as error:
            self._quarantine(path, "no readable regular file")
            raise BlobCorruptError(f"{path} is no readable regular file; moved to quarantine") from error
        stamp = files.Stamp.of(os.fstat(file.fileno()))
        known = self._memo.get(stamp)
        if stamp.size == integrity.size and known == integrity.digest.hex:
            return file
        actual = files.sha256_of(file) if stamp.size == integrity.size else f"{stamp.size} bytes"
        if actual == integrity.digest.hex:
            self._memo.put(stamp, actual)
            return file
        file.close()
        aside = self._quarantine(path, f"expected {integrity}, found {actual}")
        raise BlobCorruptError(
            f"a cached blob was damaged: expected {integrity}, found {actual}",
            hint=f"the damaged file was moved to {aside}; the content is fetched again",
        )

    def matches(self, path: Path, integrity: Integrity) -> bool:
        """Whether the file at `path` (anywhere) holds exactly these bytes; remembers what it measured."""
        try:
            with files.open_regular(path) as file:
                stamp = files.Stamp.of(os.fstat(file.fileno()))
                if stamp.size != integrity.size:
                    return False
                known = self._memo.get(stamp) or files.sha256_of(file)
                self._memo.put(stamp, known)
        except OSError:
            return False
        return known == integrity.digest.hex

    def _quarantine(self, path: Path, reason: str) -> Path:
        aside = self._directory("quarantine") / path.name
        with contextlib.suppress(OSError):
            if aside.exists():
                aside = aside.with_name(f"{path.name}.{secrets.token_hex(4)}")
            path.rename(aside)
            aside.with_name(f"{aside.name}.reason").write_text(f"{reason}\n", "utf-8")
        return aside

    # --- writing

    @contextlib.contextmanager
    def writer(self) -> Iterator[Writer]:
        """Give a writer; what is not committed leaves nothing behind.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        path = self._directory("tmp") / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            file = path.open("xb")
        except OSError as error:
            raise files.unusable(path, error) from error
        try:
            yield Writer(self, file, path)
        finally:
            with contextlib.suppress(OSError):
                file.close()
            path.unlink(missing_ok=True)

    def adopt(self, path: Path, integrity: Integrity) -> None:
        """Give a measured, synced file of the cache its name as a blob.

        Raises:
            OSError: the file system refused.
        """
        final = self.path(integrity.digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        path.replace(final)
        files.sync_directory(final.parent)
        self._memo.put(files.Stamp.of(final.lstat()), integrity.digest.hex)

    def temporary(self) -> BinaryIO:
        """Return an anonymous file beside the blobs, gone when closed.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        directory = self._directory("tmp")
        try:
            return tempfile.TemporaryFile(dir=directory)
        except OSError as error:
            raise files.unusable(directory, error) from error

    @contextlib.contextmanager
    def partial(self, integrity: Integrity) -> Iterator[Partial]:
        """Give the resumable download of a blob; hold `lock` of its digest meanwhile.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        path = self._directory("partial") / f"{integrity.digest.hex}.part"
        try:
            partial = Partial(path, self._directory("quarantine"), integrity)
        except OSError as error:
            raise files.unusable(path, error) from error
        try:
            yield partial
        except OSError as error:
            raise files.unusable(path, error) from error
        finally:
            partial.close()

    def finish(self, partial: Partial) -> None:
        """Verify a partial download and make it a blob.

        Raises:
            SizeMismatchError, DigestMismatchError: it is not what was promised.
        """
        final = self.path(partial.expected.digest)
        partial.publish(final)
        self._memo.put(files.Stamp.of(final.lstat()), partial.expected.digest.hex)

    @contextlib.contextmanager
    def lock(self, name: str, progress: Progress | None = None) -> Iterator[None]:
        """Hold the lock called `name` (hex digits); another process waits, and says for whom.

        Raises:
            StoreUnavailableError: it was not given up in time.
            CancelledError: the run was asked to stop.
        """
        path = self._directory("locks") / name
        with files.locked(path, timeout_s=LOCK_TIMEOUT_S, progress=progress or Silent()):
            yield

    # --- results

    def _result_path(self, key: str) -> Path:
        return self._top / "results" / key[:2] / key

    def result(self, key: str) -> Result | None:
        """Return what a recipe key gave, or None when nothing readable is recorded."""
        try:
            stored = json.loads(self._result_path(key).read_text("utf-8"))
            integrity = Integrity(size=stored["size"], digest=Digest.parse(stored["digest"]))
            return Result(key=key, integrity=integrity, provenance=dict(stored["provenance"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def record(self, result: Result) -> None:
        """Remember what a recipe key gave.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        path = self._result_path(result.key)
        stored = {
            "size": result.integrity.size,
            "digest": str(result.integrity.digest),
            "provenance": dict(result.provenance),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace_text(
                path,
                json.dumps(stored, indent=1, sort_keys=True) + "\n",
                self._directory("tmp") / secrets.token_hex(8),
            )
        except OSError as error:
            raise files.unusable(path, error) from error

    # --- out of the store

    def publish(self, integrity: Integrity, path: Path) -> None:
        """Put a blob at `path` (inside the cache or the build directory): a hard link, else a copy.

        Raises:
            BlobMissingError, BlobCorruptError: as `open`.
            StoreUnavailableError: `path` cannot be written.
        """
        blob = self.path(integrity.digest)
        with self.open(integrity) as file:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                aside = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
                try:
                    os.link(blob, aside, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                        raise
                    _copy(file, aside)
                aside.replace(path)
            except OSError as error:
                raise files.unusable(path, error) from error
            # a new link changes the ctime of the very file that was just measured
            self._memo.put(files.Stamp.of(os.fstat(file.fileno())), integrity.digest.hex)


def _copy(file: BinaryIO, path: Path) -> None:
    with path.open("xb") as copy:
        while chunk := file.read(files.CHUNK):
            copy.write(chunk)
        os.fchmod(copy.fileno(), 0o444)
