"""The cache of one directory: lookup, writing and publishing of blobs, results and partial downloads."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from tasks_lib.cache import results, usage
from tasks_lib.cache.blobs import BlobDirectory, LeasedBlob, Options
from tasks_lib.cache.directories import Directories
from tasks_lib.cache.partial import Partial, open_partial
from tasks_lib.cache.results import Result
from tasks_lib.cache.usage import Usage
from tasks_lib.cache.writer import Writer
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import BlobCorruptError, BlobMissingError, CacheUnavailableError, escape_text
from tasks_lib.fs import atomic, files, locks, system_calls
from tasks_lib.fs.copying import clone_or_copy, link_or_copy
from tasks_lib.fs.directories import remove_tree
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.progress import Progress, Silent

if TYPE_CHECKING:
    from tasks_lib.cache.maintenance import Maintenance
    from tasks_lib.fs.copying import LinkMode

#: Bytes that are written without a check for free space first: the write itself finds out as fast.
_MAX_UNCHECKED_SIZE: Final = 1 << 20
#: Attempts to name a blob; each one moves a file that is not the blob out of the way.
_NAMING_ATTEMPTS: Final = 3
#: errno values of writing to a cache that can only be read.
_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def _explain_miss(error: CacheUnavailableError, what: str, root: Path) -> CacheUnavailableError:
    """Return the error that explains why a lock cannot be taken: a cache that can only be read lacks `what`."""
    cause = error.__cause__
    if not isinstance(cause, OSError) or cause.errno not in _READ_ONLY:
        return error
    reason = f"{escape_text(what)} is not in the read-only cache {escape_text(str(root))} ({cause.strerror})"
    hint = "set FETCH_PRIVATE_CACHE_DIR to a writable directory for new content"
    return CacheUnavailableError(reason, hint=hint)


class Cache:
    """Content-addressed blobs, results and partial downloads under `root`/v1."""

    def __init__(self, root: Path, options: Options | None = None) -> None:
        self.root = root
        self.options = options or Options()
        self.blob_directory = BlobDirectory(root, self.options)
        self._directories = Directories(self.blob_directory)
        self.lower = (
            BlobDirectory(self.options.shared, self.options, self.blob_directory) if self.options.shared else None
        )
        self._blob_directories = (self.blob_directory,) if self.lower is None else (self.blob_directory, self.lower)

    # --- paths

    @cached_property
    def maintenance(self) -> Maintenance:
        """The operations of prune and verify on this cache."""
        from tasks_lib.cache.maintenance import Maintenance  # slow to import, needed only by prune and verify

        return Maintenance(self.blob_directory)

    @cached_property
    def usage(self) -> Usage:
        """When the items of the cache were used."""
        return Usage(self.blob_directory.top)

    def path(self, digest: Digest) -> Path:
        """Return the path of the blob, whether it exists or not.

        Raises:
            CacheUnavailableError: untrusted users can write to the cache.
        """
        return self.blob_directory.path(digest)

    def repository(self, name: str) -> Path:
        """Return the path of the bare repository `name` (hex digits), whether it exists or not.

        Hold `lock` with the same name to change the repository.

        Raises:
            CacheUnavailableError: the cache is not writable.
        """
        return self._directories.own("repositories") / name

    @property
    def lookup_directory(self) -> Path:
        """The directory of `cache.lookups.Lookups`.

        Raises:
            CacheUnavailableError: the cache is not writable.
        """
        return self._directories.own("lookups")

    def join(self, definitions: Path, configuration: str, progress: Progress | None = None) -> None:
        """Create the cache directory, record that `definitions` use it, and wait for a running prune.

        A read-only cache is left unchanged. `configuration` is one line that prune needs to know what they use.

        Raises:
            CacheUnavailableError: it cannot be used, or prune holds it for too long.
            CancelledError: the run is cancelled while it waits.
        """
        with files.convert_os_errors(self.root):
            files.make_ignored_directory(self.root, self.options.durability)
        top = self.blob_directory.top
        if not os.access(top if top.exists() else self.root, os.W_OK):
            return
        gate = self._directories.own("locks") / "prune"
        usage.record_definitions(top, self.root, definitions, configuration)
        locks.pass_through(gate, timeout_s=self.options.lock_timeout_s, progress=progress or Silent())
        locks.remove_stale_files(top / "tmp")

    # --- reading

    def has(self, integrity: Integrity) -> bool:
        """Return whether the cache has the blob, unchanged since it was hashed; one lstat when warm.

        A blob whose file changed is hashed again; if the content differs, the file goes to quarantine.

        Raises:
            CacheUnavailableError: the system cannot read it.
        """
        written_s = self.blob_directory.found(integrity)
        if written_s is None and self.lower is not None:
            written_s = self.lower.found(integrity)
        if written_s is None:
            self.usage.miss(integrity.digest.hex)
            return False
        self.usage.hit(integrity.digest.hex, written_s)
        return True

    def open(self, integrity: Integrity) -> BinaryIO:
        """Open a blob; the returned file yields only verified content, and prune keeps it while it is open.

        Raises:
            BlobMissingError: the cache does not contain it.
            BlobCorruptError: its content is not the pinned bytes; it is in quarantine now. Reading raises this too,
                if another process changes the open file.
            CacheUnavailableError: the system cannot read it.
        """
        try:
            return self.blob_directory.open(integrity)
        except (BlobMissingError, BlobCorruptError):
            if self.lower is None:
                raise
            return self.lower.open(integrity)

    def matches(self, path: Path, integrity: Integrity, how: Literal["remembered", "afresh"] = "remembered") -> bool:
        """Return whether the file at `path` (anywhere) has exactly this content; use the hash cache unless `afresh`."""
        hash_cache = self.blob_directory.hash_cache
        try:
            fingerprint = Fingerprint.of(path.lstat())
            if fingerprint.size != integrity.size:
                return False
            if how == "remembered" and hash_cache.get(fingerprint) == integrity.digest.hex:
                return True
            with files.open_regular(path) as file:
                fingerprint = Fingerprint.of(os.fstat(file.fileno()))
                actual = files.hash_descriptor(file.fileno(), integrity.digest.algorithm)
                if Fingerprint.of(os.fstat(file.fileno())) == fingerprint:
                    hash_cache.put(fingerprint, actual)
        except OSError:
            return False
        return actual == integrity.digest.hex

    # --- writing

    @contextlib.contextmanager
    def writer(self) -> Iterator[Writer]:
        """Yield a writer for a new blob; bytes that are not committed are discarded.

        Raises:
            CacheUnavailableError: the cache is not writable.
        """
        with self._scratch(0o444) as temporary:
            yield Writer(self.root, temporary, self.options.durability, self.name)

    def name(self, descriptor: int, temporary: Path | None, integrity: Integrity, artifact: Path | None = None) -> None:
        """Link a hashed, synced, open file of the cache at its blob path; remove its temporary name.

        If a file exists at that path, it stays if it is the blob; otherwise it goes to quarantine. A new blob is also
        linked at `artifact`, if that succeeds.

        Raises:
            OSError: the file system rejects the operation.
        """
        final = self.blob_directory.place(integrity.digest)
        directory, durability = final.rpartition("/")[0], self.options.durability
        named = self._directories.write(
            directory, durability, lambda: self._named(descriptor, temporary, integrity, final)
        )
        files.sync_directory(directory, durability)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if named == "now":
            if artifact is not None:
                self._link_artifact(descriptor, final, artifact)
            self.blob_directory.hash_cache.put(Fingerprint.of(os.fstat(descriptor)), integrity.digest.hex)

    def _link_artifact(self, descriptor: int, blob: str, artifact: Path) -> None:
        """Link a new blob at `artifact`, unless that exists or fails: `publish` finds out, and reports an error."""
        with contextlib.suppress(OSError):
            # no directory is synced: a link that a power loss removes is created again
            place = str(artifact)
            self._directories.make(files.parent_of(place), "fast")
            system_calls.link_open_file(descriptor, place, known_as=blob)

    def _named(
        self, descriptor: int, temporary: Path | None, integrity: Integrity, final: str
    ) -> Literal["now", "before"]:
        for _ in range(_NAMING_ATTEMPTS):
            try:
                atomic.link_new(descriptor, temporary, final)
            except FileExistsError:
                if self.blob_directory.found(integrity) is not None:
                    return "before"
            else:
                return "now"
        raise FileExistsError(errno.EEXIST, "another file keeps appearing at this path", final)

    def temporary(self) -> BinaryIO:
        """Return an anonymous file on the file system of the blobs; closing it deletes it.

        Its `write` raises CacheUnavailableError when the file system is full.

        Raises:
            CacheUnavailableError: the cache is not writable.
        """
        directory = self._directories.own("tmp")
        with files.convert_os_errors(directory):
            temporary = atomic.Temporary(directory, 0o600)
            if temporary.path is not None:
                temporary.path.unlink()
        return temporary.spool(directory)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty directory for a program, removed afterwards.

        After a kill, the next run removes it when no program works in it any more.

        Raises:
            CacheUnavailableError: the cache is not writable.
        """
        directory = self._directories.own("tmp") / atomic.scratch_name()
        with files.convert_os_errors(directory):
            directory.mkdir(0o700)
        try:
            with locks.hold_directory(directory):
                yield directory
        finally:
            remove_tree(directory)

    def partial(self, integrity: Integrity) -> contextlib.AbstractContextManager[Partial]:
        """Open the resumable download of a blob; the caller holds `lock` of its digest.

        Raises:
            CacheUnavailableError: the cache is not writable.
        """
        directory = self._directories.own("partial")
        place = f"{directory}/{integrity.digest.hex}.part"
        try:
            existing_size = self._resumable(place)
            if integrity.size - existing_size > _MAX_UNCHECKED_SIZE:
                files.require_space(directory, integrity.size - existing_size)
        except OSError as error:
            raise files.cache_error(place, error, integrity.size) from error
        return open_partial(place, lambda: self._directories.own("quarantine"), integrity, existing_size)

    def _resumable(self, place: str) -> int:
        """Return how many bytes an earlier download left; remove a file that cannot be resumed.

        A kill between linking a blob and unlinking the partial leaves both names; the file then belongs to the blob.
        """
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            return 0
        path = Path(place)
        if not stat.S_ISREG(status.st_mode):
            self.blob_directory.quarantine(path, None, "not a partial download")
        elif status.st_nlink > 1 or self.options.trust.objection(status) or not os.access(path, os.R_OK | os.W_OK):
            path.unlink()  # or it is a download of another user of the trusted group
        else:
            return status.st_size
        return 0

    def finish(self, partial: Partial) -> None:
        """Verify a partial download and publish it as a blob.

        Raises:
            SizeMismatchError, DigestMismatchError: its content does not match its integrity.
        """
        content = partial.take()
        if content is None:
            durability = self.options.durability
            partial.publish(
                lambda descriptor, path: self.name(descriptor, path, partial.expected, partial.artifact), durability
            )
            return
        temporary = atomic.Temporary(self._directories.own("tmp"), 0o444)
        try:
            temporary.write(content)
            temporary.finish(self.options.durability)
            self.name(temporary.descriptor, temporary.path, partial.expected, partial.artifact)
        finally:
            temporary.close()

    @contextlib.contextmanager
    def lock(self, name: str, progress: Progress | None = None, what: str = "what this task makes") -> Iterator[None]:
        """Hold the lock `name` (hex digits); another process waits, and reports the holder as progress.

        `what` is missing in the cache and is written under the lock; it is named if the cache is read-only.

        Raises:
            CacheUnavailableError: the holder does not release it in time, or the cache is read-only.
            CancelledError: the run is cancelled.
        """
        try:
            place = f"{self._directories.own('locks')}/{name}"
            held = locks.acquire(place, timeout_s=self.options.lock_timeout_s, progress=progress or Silent())
        except CacheUnavailableError as error:
            raise _explain_miss(error, what, self.root) from error.__cause__
        try:
            yield
        finally:
            locks.release(held)

    def inputs(self, *, digest: Digest | None = None, key: str = "") -> list[str]:
        """Return the files whose state decides whether the cache has a blob, or which result a recipe key has."""
        blobs = [one.place(digest) for one in self._blob_directories] if digest is not None else []
        return blobs + ([one.result_path(key) for one in self._blob_directories] if key else [])

    # --- results

    def result(self, key: str) -> Result | None:
        """Return the result of a recipe key, None if no readable one is recorded.

        Raises:
            CacheUnavailableError: untrusted users can write to the cache.
        """
        for one in self._blob_directories:
            try:
                return results.read(one.result_path(key), key, self.options.trust)
            except (OSError, ValueError):
                continue
        return None

    def record(self, result: Result) -> None:
        """Record the result of a recipe key.

        The file is not synced: if a power loss removes or tears it, its checksum fails and it is recorded again.

        Raises:
            CacheUnavailableError: the cache is not writable.
        """
        self._directories.own("results")
        final = self.blob_directory.result_path(result.key)
        directory = final.rpartition("/")[0]
        try:
            temporary = atomic.Temporary(self._directories.own("tmp"), 0o644)
            try:
                temporary.write(results.encode(result).encode("ascii"))
                temporary.finish("fast")
                self._directories.write(directory, "fast", lambda: self._replace(temporary, final))
            finally:
                temporary.close()
        except OSError as error:
            raise files.cache_error(final, error) from error

    def _replace(self, temporary: atomic.Temporary, final: str) -> None:
        try:
            atomic.link_new(temporary.descriptor, temporary.path, final)
        except FileExistsError:
            atomic.replace_file(temporary.descriptor, temporary.path, final, self._directories.own("tmp"))

    @contextlib.contextmanager
    def _scratch(self, mode: int) -> Iterator[atomic.Temporary]:
        """Yield a temporary file.

        Raises:
            CacheUnavailableError: the cache is not writable.
        """
        directory = self._directories.own("tmp")
        with files.convert_os_errors(directory):
            temporary = atomic.Temporary(directory, mode)
        try:
            yield temporary
        finally:
            temporary.close()

    # --- publishing

    def publish(self, integrity: Integrity, path: Path) -> None:
        """Put a blob at `path` inside the cache: a hard link if possible, else a copy.

        Raises:
            BlobMissingError, BlobCorruptError: as `open`.
            CacheUnavailableError: `path` is not writable.
        """
        directory = files.parent_of(str(path))
        with self.open(integrity) as file:
            try:
                # no directory is synced: a link that a power loss removes is created again
                self._directories.write(directory, "fast", lambda: self._put(file, path, integrity))
            except OSError as error:
                raise files.cache_error(path, error, integrity.size) from error

    def export(self, integrity: Integrity, name: str, directory: int, progress: Progress) -> None:
        """Create the new file `name` in an open directory anywhere: a hard link to a blob, else a clone, else a copy.

        Raises:
            BlobMissingError, BlobCorruptError, CacheUnavailableError: as `open`.
            OSError: the file system of the directory rejects the operation.
            CancelledError: the run is cancelled.
        """
        with self.open(integrity) as file:
            own = isinstance(file, LeasedBlob) and system_calls.is_same(file.fileno(), self.path(integrity.digest))
            how: LinkMode = "hardlink" if own else "auto"  # a shared cache is read-only
            link_or_copy(file, name, directory=directory, mode=0o444, how=how, progress=progress)
            if isinstance(file, LeasedBlob):
                self._remember_links(file, integrity)

    def _put(self, file: BinaryIO, path: Path, integrity: Integrity) -> None:
        if not self._linked(file, path, integrity):
            with self._scratch(0o444) as temporary:
                clone_or_copy(file, temporary.descriptor, "auto", Silent())
                temporary.finish(self.options.durability)
                atomic.replace_file(temporary.descriptor, temporary.path, path, self._directories.own("tmp"))

    def _linked(self, file: BinaryIO, path: Path, integrity: Integrity) -> bool:
        """Link `path` to the open blob, which changes its fingerprint; return whether that succeeded."""
        blob = self.blob_directory.place(integrity.digest)
        if not isinstance(file, LeasedBlob) or file.place != blob:
            return False  # a shared cache is read-only
        try:
            atomic.link_over(file.fileno(), blob, path, self._directories.own("tmp"))
        except OSError as error:
            if error.errno not in system_calls.NOT_SUPPORTED:
                raise
            return False
        self._remember_links(file, integrity)
        return True

    def _remember_links(self, file: LeasedBlob, integrity: Integrity) -> None:
        """Keep an open blob verified after it got a link, which changes its fingerprint."""
        fingerprint = Fingerprint.of(os.fstat(file.fileno()))
        if (fingerprint.mtime_ns, fingerprint.size) == (file.fingerprint.mtime_ns, file.fingerprint.size):
            file.fingerprint = fingerprint  # only the links changed
            self.blob_directory.hash_cache.put(fingerprint, integrity.digest.hex)
