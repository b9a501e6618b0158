"""The blobs of one cache directory: lookup, opening and verification.

Internal to the cache. A blob is used only after its content is hashed. Missing and invalid are different results. A
blob that the system cannot read (no permission, no descriptor left, a bad disk) is neither, and stays where it is.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from tasks_lib.cache.hash_cache import HashCache
from tasks_lib.cache.quarantine import Quarantine
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import BlobCorruptError, BlobMissingError, CacheUnavailableError, escape_text
from tasks_lib.fs import files, locks, system_calls
from tasks_lib.fs.files import Durability
from tasks_lib.fs.fingerprint import Fingerprint, settled_fingerprint
from tasks_lib.fs.trust import FORMAT, NOBODY, Trust
from tasks_lib.named import NamedTuple
from tasks_lib.progress import Progress

_MISSING: Final = (errno.ENOENT, errno.ENOTDIR)
#: Seconds to wait for another process; enough for a download of several gigabytes.
LOCK_TIMEOUT_S: Final = 1800.0


class Options(NamedTuple):
    """Options of a cache; `shared` is the directory of a second, read-only cache that is used when the first misses."""

    durability: Durability = "full"
    lock_timeout_s: float = LOCK_TIMEOUT_S
    trust: Trust = NOBODY
    shared: Path | None = None


class LeasedBlob(io.FileIO):
    """A verified, open blob; it is verified again if it changes while it is read.

    The check runs at the end of the content and at the end of a `with` block, so that a reader that reaches the end
    does not accept bytes that another process wrote into the open file.
    """

    def __init__(
        self, descriptor: int, place: str, fingerprint: Fingerprint, confirm: Callable[[LeasedBlob], None]
    ) -> None:
        super().__init__(descriptor, "rb")
        self.place, self.fingerprint = place, fingerprint
        self._confirm = confirm

    def read(self, size: int | None = -1) -> bytes:
        """Read at most `size` bytes; return b"" at the end only if the content is unchanged.

        Raises:
            BlobCorruptError: the content changed since it was hashed.
        """
        chunk = super().read(size)
        if not chunk and size != 0:
            self.confirm()
        return chunk

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`; like `read`."""
        count = super().readinto(buffer)
        if not count and len(buffer):
            self.confirm()
        return count

    def readall(self) -> bytes:
        """Read the rest; like `read`."""
        rest = super().readall()
        self.confirm()
        return rest

    def confirm(self) -> None:
        """Check that the content is still the verified content.

        Raises:
            BlobCorruptError: the content changed since it was hashed.
        """
        if Fingerprint.of(os.fstat(self.fileno())) != self.fingerprint:
            self._confirm(self)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None and not self.closed:
                self.confirm()
        finally:
            self.close()


class BlobDirectory:
    """The blobs below `root`; whether the directory is writable shows only on the first write.

    A directory with an `upper` one is read-only: its hashes are recorded in `upper`, and its damaged blobs stay.
    """

    def __init__(self, root: Path, options: Options, upper: BlobDirectory | None = None) -> None:
        self.root, self.options = root, options
        self._top, self._upper = root / FORMAT, upper

    @cached_property
    def top(self) -> Path:
        """The directory of this format, after the check that untrusted users cannot write to it.

        Raises:
            CacheUnavailableError: untrusted users can write to it.
        """
        self.options.trust.require_root(self.root)  # the entry points show its warnings
        return self._top

    @cached_property
    def hash_cache(self) -> HashCache:
        """The hash cache of this directory.

        Raises:
            CacheUnavailableError: as `top`.
        """
        return HashCache(self.top / "measured", self.options.trust, self._upper.hash_cache if self._upper else None)

    @cached_property
    def _place(self) -> str:
        return str(self.top)

    def path(self, digest: Digest) -> Path:
        """Return the path of the blob, whether it exists or not."""
        return _path(self.place(digest))

    def place(self, digest: Digest) -> str:
        """Return the same path as a string: for ten thousand blobs, creating a `Path` costs more than an lstat."""
        return f"{self._place}/blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"

    def result_path(self, key: str) -> str:
        """Return the path of the result of a recipe key, whether it exists or not.

        Raises:
            CacheUnavailableError: as `top`.
        """
        return f"{self._place}/results/{key[:2]}/{key}"

    def found(self, integrity: Integrity) -> float | None:
        """Return the time at which a valid blob was written, None if it is missing or damaged; one lstat when warm.

        Raises:
            CacheUnavailableError: the system cannot read it.
        """
        place = self.place(integrity.digest)
        try:
            fingerprint = Fingerprint.of(os.lstat(place))
        except OSError as error:
            if error.errno in _MISSING:
                return None
            raise files.cache_error(Path(place), error) from error
        if fingerprint.size != integrity.size or self.hash_cache.get(fingerprint) != integrity.digest.hex:
            try:
                self.open(integrity).close()
            except (BlobMissingError, BlobCorruptError):
                return None
        return fingerprint.mtime_ns / 1e9

    def open(self, integrity: Integrity) -> LeasedBlob:
        """Open a blob and lease it: prune keeps open blobs.

        Raises:
            BlobMissingError: it does not exist.
            BlobCorruptError: its content is not the pinned bytes; it is in quarantine now.
            CacheUnavailableError: the system cannot read it.
        """
        path = self.place(integrity.digest)
        try:
            descriptor, status = files.open_regular_descriptor(path)
        except files.NotRegularError as error:
            raise self._damaged(Path(path), None, "not a regular file") from error
        except OSError as error:
            if error.errno in _MISSING:
                raise BlobMissingError(f"the cache does not contain {integrity.digest}") from error
            raise files.cache_error(path, error) from error
        try:
            locks.lease(descriptor)
            fingerprint = self._judge(descriptor, status, integrity, path)
            return LeasedBlob(descriptor, path, fingerprint, lambda opened: self._again(opened, integrity, path))
        except BaseException:
            os.close(descriptor)
            raise

    def _judge(self, descriptor: int, status: os.stat_result, integrity: Integrity, path: str) -> Fingerprint:
        """Return the fingerprint of the open file, verified now or earlier."""
        fingerprint = Fingerprint.of(status)
        known = self.hash_cache.get(fingerprint)
        if known == integrity.digest.hex and fingerprint.size == integrity.size:
            return fingerprint
        objection = self.options.trust.objection(status)
        if objection:
            raise self._damaged(Path(path), descriptor, objection)
        return self._measure(descriptor, integrity, path)

    def _measure(self, descriptor: int, integrity: Integrity, place: str) -> Fingerprint:
        """Return the fingerprint of the open file after hashing its content.

        A blob with the right digest stays even when its size differs from the expected one: the expectation is wrong.
        """
        path = Path(place)
        fingerprint = settled_fingerprint(descriptor)
        actual = self.hash_cache.get(fingerprint)
        if actual != integrity.digest.hex:
            with files.convert_os_errors(path):
                actual = files.hash_descriptor(descriptor, integrity.digest.algorithm)
            if actual != integrity.digest.hex:
                got = f"{fingerprint.size} bytes, {integrity.digest.algorithm}:{actual}"
                raise self._damaged(path, descriptor, f"expected {integrity}, got {got}")
            if Fingerprint.of(os.fstat(descriptor)) == fingerprint:  # unchanged while it was hashed
                self.hash_cache.put(fingerprint, actual)
        if fingerprint.size != integrity.size:
            raise BlobMissingError(
                f"wrong size for {integrity.digest}: expected {integrity.size} bytes, got {fingerprint.size}",
                hint="correct the size in the definition",
            )
        return fingerprint

    def _again(self, opened: LeasedBlob, integrity: Integrity, path: str) -> None:
        """Verify a blob whose fingerprint changed while it was read; a new hard link changes it, but not the content.

        Raises:
            BlobCorruptError: the content differs now, or did so in between.
        """
        fingerprint = self._measure(opened.fileno(), integrity, path)
        if fingerprint.link_stable != opened.fingerprint.link_stable:
            raise BlobCorruptError(
                f"{escape_text(path)} changed while it was read",
                hint="find the process that writes to it, then run again",
            )
        opened.fingerprint = fingerprint

    def inspect(self, path: Path, progress: Progress) -> str:
        """Hash the whole blob at `path`, ignoring the hash cache; return the problem, "" for none.

        A damaged blob goes to quarantine. A blob that vanishes meanwhile is not a problem.

        Raises:
            CacheUnavailableError: the system cannot read it.
            CancelledError: the run was asked to stop.
        """
        try:
            digest = Digest(path.parent.parent.name, path.name)
            with files.convert_os_errors(path), files.open_regular(path) as file:
                locks.lease(file.fileno())
                reason = self.options.trust.objection(os.fstat(file.fileno()))
                fingerprint = Fingerprint.of(os.fstat(file.fileno()))
                actual = files.hash_descriptor(file.fileno(), digest.algorithm, progress)
                if actual != digest.hex:
                    reason = f"the content is {digest.algorithm}:{actual}, {fingerprint.size} bytes"
                if reason:
                    self.quarantine(path, file.fileno(), reason)
                elif Fingerprint.of(os.fstat(file.fileno())) == fingerprint:
                    self.hash_cache.put(fingerprint, actual)
                return reason
        except ValueError:
            reason = "the file name is not a digest"
        except CacheUnavailableError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return ""
            if not isinstance(error.__cause__, files.NotRegularError):
                raise
            reason = "not a regular file"
        self.quarantine(path, None, reason)
        return reason

    def _damaged(self, path: Path, descriptor: int | None, reason: str) -> BlobCorruptError:
        aside = self.quarantine(path, descriptor, reason)
        where = f"was moved to {escape_text(str(aside))}" if aside else "could not be moved aside"
        return BlobCorruptError(
            f"damaged blob in the cache: {escape_text(str(path))}: {reason}",
            hint=f"the damaged file {where}; the content is fetched again",
        )

    def quarantine(self, path: Path, descriptor: int | None, reason: str) -> Path | None:
        """Move the file at `path` to quarantine with a note of the reason; return its new path, None if it stays.

        Only the file that was checked is moved: another process may have put a valid one there meanwhile.
        """
        directory = self._top / "quarantine"
        aside = directory / f"{path.name}.{os.urandom(4).hex()}"
        if self._upper is not None or not _is_checked_file(descriptor, path):
            return None
        try:
            files.make_directory(directory, self.root)
            path.rename(aside)
        except OSError:
            return None
        if not _is_checked_file(descriptor, aside):
            with contextlib.suppress(OSError):
                os.link(aside, path, follow_symlinks=False)
                aside.unlink()
            return None
        files.append_text(aside.with_name(f"{aside.name}.reason"), ascii(reason)[1:-1] + "\n", "longer")
        Quarantine(directory).shrink(aside)
        return aside


@lru_cache(maxsize=64)
def _path(place: str) -> Path:
    """Return a `Path`, cached: the download of a small file asks for it three times, at ten microseconds each."""
    return Path(place)


def _is_checked_file(descriptor: int | None, path: Path) -> bool:
    """Return whether `path` is the open file that was checked; without one, whether it is not a regular file."""
    if descriptor is not None:
        return system_calls.is_same(descriptor, path)
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
