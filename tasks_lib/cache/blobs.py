"""The blobs of one cache directory: looked up, opened and believed only once measured.

Internal to the store. Missing and invalid are different answers: what cannot be read for a reason of the system (no
permission, no descriptor left, a bad disk) is neither, and stays where it is.
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
from tasks_lib.cache.trust import FORMAT, Options
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import BlobCorruptError, BlobMissingError, CacheUnavailableError, escaped
from tasks_lib.fs import files, locks, system_calls
from tasks_lib.fs.fingerprint import Fingerprint, settled
from tasks_lib.progress import Progress

_MISSING: Final = (errno.ENOENT, errno.ENOTDIR)


class LeasedBlob(io.FileIO):
    """A blob that was measured; it is measured again when it changed while it was read.

    The look happens where the content ends and where a `with` block ends, so that nobody who reads to the end believes
    bytes that somebody wrote into the open file.
    """

    def __init__(
        self, descriptor: int, path: Path, fingerprint: Fingerprint, confirm: Callable[[LeasedBlob], None]
    ) -> None:
        super().__init__(descriptor, "rb")
        self.path, self.fingerprint = path, fingerprint
        self._confirm = confirm

    def read(self, size: int | None = -1) -> bytes:
        """Read; the end is only said of what did not change.

        Raises:
            BlobCorruptError: the content changed since it was measured.
        """
        found = super().read(size)
        if not found and size != 0:
            self.confirm()
        return found

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`, as `read`."""
        count = super().readinto(buffer)
        if not count and len(buffer):
            self.confirm()
        return count

    def readall(self) -> bytes:
        """Read the rest, as `read`."""
        found = super().readall()
        self.confirm()
        return found

    def confirm(self) -> None:
        """Return when what was read is what was measured.

        Raises:
            BlobCorruptError: the content changed since.
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
    """The blobs below `root`; whether they can be written is found out by writing.

    One that has an `upper` is only read: what was measured in it is remembered there, what is damaged stays.
    """

    def __init__(self, root: Path, options: Options, upper: BlobDirectory | None = None) -> None:
        self.root, self.options = root, options
        self._top, self._upper = root / FORMAT, upper

    @property
    def guarded(self) -> tuple[Path, ...]:
        """The directories that nobody else may write."""
        return (self.root.resolve(), self._top, *(self._top / name for name in ("blobs", "results", "locks")))

    @cached_property
    def top(self) -> Path:
        """The directory of this format, once it is sure that nobody else can write it.

        Raises:
            StoreUnavailableError: others can write it.
        """
        for path in self.guarded:
            with files.translated(path):
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue
            self.options.trust.require(path, status)
        return self._top

    @cached_property
    def memo(self) -> HashCache:
        """What was measured here.

        Raises:
            StoreUnavailableError: as `top`.
        """
        return HashCache(self.top / "measured", self.options.trust, self._upper.memo if self._upper else None)

    @cached_property
    def _place(self) -> str:
        return str(self.top)

    def path(self, digest: Digest) -> Path:
        """Return where the blob of that digest is or would be."""
        return _path(self.place(digest))

    def place(self, digest: Digest) -> str:
        """Return the same as a text: ten thousand of them are looked at, and a `Path` costs more than the look."""
        return f"{self._place}/blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"

    def result_place(self, key: str) -> str:
        """Return where what is recorded for a recipe key is or would be.

        Raises:
            StoreUnavailableError: as `top`.
        """
        return f"{self._place}/results/{key[:2]}/{key}"

    def found(self, integrity: Integrity) -> float | None:
        """Return when a blob was written that is here and unchanged since it was measured; one lstat when warm.

        Raises:
            StoreUnavailableError: the system refuses to say.
        """
        place = self.place(integrity.digest)
        try:
            fingerprint = Fingerprint.of(os.lstat(place))
        except OSError as error:
            if error.errno in _MISSING:
                return None
            raise files.unusable(Path(place), error) from error
        if fingerprint.size != integrity.size or self.memo.get(fingerprint) != integrity.digest.hex:
            try:
                self.open(integrity).close()
            except (BlobMissingError, BlobCorruptError):
                return None
        return fingerprint.mtime_ns / 1e9

    def open(self, integrity: Integrity) -> LeasedBlob:
        """Open a blob and lease it: prune leaves alone what is open.

        Raises:
            BlobMissingError: it is not here.
            BlobCorruptError: it was here and is not the pinned bytes; it is in quarantine now.
            StoreUnavailableError: the system refuses to read it.
        """
        path = self.path(integrity.digest)
        try:
            descriptor, status = files.regular(path)
        except files.NotRegularError as error:
            raise self._damaged(path, None, "it is no regular file") from error
        except OSError as error:
            if error.errno in _MISSING:
                raise BlobMissingError(f"the cache does not hold {integrity.digest}") from error
            raise files.unusable(path, error) from error
        try:
            locks.lease(descriptor)
            fingerprint = self._judge(descriptor, status, integrity, path)
            return LeasedBlob(descriptor, path, fingerprint, lambda opened: self._again(opened, integrity, path))
        except BaseException:
            os.close(descriptor)
            raise

    def _judge(self, descriptor: int, status: os.stat_result, integrity: Integrity, path: Path) -> Fingerprint:
        """Return the fingerprint with which the open file is the blob, as measured now or before."""
        fingerprint = Fingerprint.of(status)
        known = self.memo.get(fingerprint)
        if known == integrity.digest.hex and fingerprint.size == integrity.size:
            return fingerprint
        objection = self.options.trust.objection(status)
        if objection:
            raise self._damaged(path, descriptor, objection)
        return self._measure(descriptor, integrity, path)

    def _measure(self, descriptor: int, integrity: Integrity, path: Path) -> Fingerprint:
        """Return the fingerprint with which the open file is the blob, as read now.

        A right blob stays whatever size somebody expects of it: then the expectation is wrong.
        """
        fingerprint = settled(descriptor)
        actual = self.memo.get(fingerprint)
        if actual != integrity.digest.hex:
            with files.translated(path):
                actual = files.hex_of(descriptor, integrity.digest.algorithm)
            if actual != integrity.digest.hex:
                found = f"{fingerprint.size} bytes, {integrity.digest.algorithm}:{actual}"
                raise self._damaged(path, descriptor, f"expected {integrity}, found {found}")
            if Fingerprint.of(os.fstat(descriptor)) == fingerprint:  # nobody wrote meanwhile
                self.memo.put(fingerprint, actual)
        if fingerprint.size != integrity.size:
            raise BlobMissingError(
                f"the cache holds {integrity.digest} with {fingerprint.size} bytes, but {integrity.size} are expected",
                hint="correct the size in the definition",
            )
        return fingerprint

    def _again(self, opened: LeasedBlob, integrity: Integrity, path: Path) -> None:
        """Judge a blob that changed while it was read: a new link changes its fingerprint, not its content.

        Raises:
            BlobCorruptError: it is another content now, or was in between.
        """
        fingerprint = self._measure(opened.fileno(), integrity, path)
        if fingerprint.link_stable != opened.fingerprint.link_stable:
            raise BlobCorruptError(
                f"{escaped(str(path))} was written while it was read", hint="see who writes there, and run again"
            )
        opened.fingerprint = fingerprint

    def inspect(self, path: Path, progress: Progress) -> str:
        """Read what stands at a blob's path to its end, whatever is remembered; return what is wrong, "" for nothing.

        What is wrong goes to quarantine; what vanished meanwhile is nothing.

        Raises:
            StoreUnavailableError: the system refuses to read it.
            CancelledError: the run was asked to stop.
        """
        try:
            digest = Digest(path.parent.parent.name, path.name)
            with files.translated(path), files.open_regular(path) as file:
                locks.lease(file.fileno())
                reason = self.options.trust.objection(os.fstat(file.fileno()))
                fingerprint = Fingerprint.of(os.fstat(file.fileno()))
                actual = files.hex_of(file.fileno(), digest.algorithm, progress)
                if actual != digest.hex:
                    reason = f"its content is {digest.algorithm}:{actual}, {fingerprint.size} bytes"
                if reason:
                    self.quarantine(path, file.fileno(), reason)
                elif Fingerprint.of(os.fstat(file.fileno())) == fingerprint:
                    self.memo.put(fingerprint, actual)
                return reason
        except ValueError:
            reason = "its name is no digest"
        except CacheUnavailableError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return ""
            if not isinstance(error.__cause__, files.NotRegularError):
                raise
            reason = "it is no regular file"
        self.quarantine(path, None, reason)
        return reason

    def _damaged(self, path: Path, descriptor: int | None, reason: str) -> BlobCorruptError:
        aside = self.quarantine(path, descriptor, reason)
        where = f"the damaged file was moved to {escaped(str(aside))}" if aside else "it could not be moved aside"
        return BlobCorruptError(
            f"a cached blob was damaged: {escaped(str(path))}: {reason}", hint=f"{where}; the content is fetched again"
        )

    def quarantine(self, path: Path, descriptor: int | None, reason: str) -> Path | None:
        """Move what stands at `path` aside with a note of the reason; return where, None when it stays.

        Only the very file that was judged goes: another process may have put a right one there meanwhile.
        """
        directory = self._top / "quarantine"
        aside = directory / f"{path.name}.{os.urandom(4).hex()}"
        if self._upper is not None or not _is_judged(descriptor, path):
            return None
        try:
            files.make_directory(directory, self.root)
            path.rename(aside)
        except OSError:
            return None
        if not _is_judged(descriptor, aside):
            with contextlib.suppress(OSError):
                os.link(aside, path, follow_symlinks=False)
                aside.unlink()
            return None
        files.append_text(aside.with_name(f"{aside.name}.reason"), ascii(reason)[1:-1] + "\n", "longer")
        Quarantine(directory).shrink(aside)
        return aside


@lru_cache(maxsize=64)
def _path(place: str) -> Path:
    """Return a path: who downloads a small file asks for its blob three times, ten microseconds each."""
    return Path(place)


def _is_judged(descriptor: int | None, path: Path) -> bool:
    """Whether `path` is the open file that was judged; without one, whatever is no regular file."""
    if descriptor is not None:
        return system_calls.is_same(descriptor, path)
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
