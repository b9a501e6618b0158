"""The cache of one directory: lookup, writing and publishing of blobs, results and partial downloads."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from tasks_lib.cache import results, usage
from tasks_lib.cache.blobs import BlobDirectory, LeasedBlob
from tasks_lib.cache.directories import Directories
from tasks_lib.cache.partial import Partial, opened
from tasks_lib.cache.results import Result
from tasks_lib.cache.trust import Options
from tasks_lib.cache.writer import Writer
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import BlobCorruptError, BlobMissingError
from tasks_lib.fs import atomic, files, locks, system_calls
from tasks_lib.fs.copying import fill
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.fs.locks import locked
from tasks_lib.progress import Progress, Silent

if TYPE_CHECKING:
    from tasks_lib.cache.maintenance import Maintenance
    from tasks_lib.cache.trees import Trees

#: Bytes that are just written: whether they fit is found out as fast as it is asked.
_SMALL: Final = 1 << 20
#: Attempts to name a blob: each time, something that is not the blob is moved out of its place.
_NAMING_ATTEMPTS: Final = 3


class Cache:
    """Content-addressed blobs, results and partial downloads under `root`/v1."""

    def __init__(self, root: Path, options: Options | None = None) -> None:
        self.root = root
        self.options = options or Options()
        self.shelf = BlobDirectory(root, self.options)
        self._directories = Directories(self.shelf)
        self._lower = BlobDirectory(self.options.shared, self.options, self.shelf) if self.options.shared else None
        self._shelves = (self.shelf,) if self._lower is None else (self.shelf, self._lower)

    # --- places

    @cached_property
    def upkeep(self) -> Maintenance:
        """What prune and verify work with."""
        from tasks_lib.cache.maintenance import Maintenance  # loaded when asked for: most runs prune and verify nothing

        return Maintenance(self.shelf)

    @cached_property
    def _usage(self) -> usage.Usage:
        return usage.Usage(self.shelf.top)

    def trees(self, remove_tree: Callable[[Path], None]) -> Trees:
        """Return the unpacked trees; `remove_tree` is how a directory is removed."""
        from tasks_lib.cache.trees import Trees

        return Trees(self.shelf, self._lower, self._usage, remove_tree)

    def path(self, digest: Digest) -> Path:
        """Return where the blob of that digest is or would be.

        Raises:
            StoreUnavailableError: others can write the cache.
        """
        return self.shelf.path(digest)

    def _directory(self, name: str) -> Path:
        """Return a directory of the cache, made when missing.

        Raises:
            StoreUnavailableError: it cannot be made, or others can write it.
        """
        return self._directories.own(name)

    def repository(self, name: str) -> Path:
        """Return where the bare repository `name` (hex digits) is or would be; hold `lock` of its name to change it.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        return self._directory("repositories") / name

    def join(self, definitions: Path, progress: Progress | None = None) -> None:
        """Make the cache directory, note who uses it, and wait while it is pruned; a read-only one is as it is.

        Raises:
            StoreUnavailableError: it cannot be used, or prune holds it for too long.
            CancelledError: the run was asked to stop while waiting.
        """
        with files.translated(self.root):
            files.make_directory(self.root, self.root, self.options.durability)
        top = self.shelf.top
        if not os.access(top if top.exists() else self.root, os.W_OK):
            return
        gate = self._directory("locks") / "prune"
        usage.remember_definitions(top, self.root, definitions)
        locks.pass_through(gate, timeout_s=self.options.lock_timeout_s, progress=progress or Silent())
        locks.sweep(top / "tmp")

    # --- reading

    def has(self, integrity: Integrity) -> bool:
        """Whether the blob is here and unchanged since it was measured; one lstat when warm.

        A blob whose file changed is measured again: right bytes are believed, others go to quarantine.

        Raises:
            StoreUnavailableError: the system refuses to say.
        """
        written_s = self.shelf.found(integrity)
        if written_s is None and self._lower is not None:
            written_s = self._lower.found(integrity)
        if written_s is None:
            self._usage.miss(integrity.digest.hex)
            return False
        self._usage.hit(integrity.digest.hex, written_s)
        return True

    def open(self, integrity: Integrity) -> BinaryIO:
        """Open a blob; what is read from the returned file is what was measured, and prune leaves it alone.

        Raises:
            BlobMissingError: it is not here.
            BlobCorruptError: it was here and is not the pinned bytes; it is in quarantine now. Reading raises this
                too, when somebody changes the open file.
            StoreUnavailableError: the system refuses to read it.
        """
        try:
            return self.shelf.open(integrity)
        except (BlobMissingError, BlobCorruptError):
            if self._lower is None:
                raise
            return self._lower.open(integrity)

    def matches(self, path: Path, integrity: Integrity, how: Literal["remembered", "afresh"] = "remembered") -> bool:
        """Whether the file at `path` (anywhere) holds exactly these bytes; what was measured counts unless `afresh`."""
        memo = self.shelf.memo
        try:
            fingerprint = Fingerprint.of(path.lstat())
            if fingerprint.size != integrity.size:
                return False
            if how == "remembered" and memo.get(fingerprint) == integrity.digest.hex:
                return True
            with files.open_regular(path) as file:
                fingerprint = Fingerprint.of(os.fstat(file.fileno()))
                actual = files.hex_of(file.fileno(), integrity.digest.algorithm)
                if Fingerprint.of(os.fstat(file.fileno())) == fingerprint:
                    memo.put(fingerprint, actual)
        except OSError:
            return False
        return actual == integrity.digest.hex

    # --- writing

    @contextlib.contextmanager
    def writer(self) -> Iterator[Writer]:
        """Give a writer; what is not committed leaves nothing behind.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        with self._scratch(0o444) as temporary:
            yield Writer(self.root, temporary, self.options.durability, self.name)

    def name(self, descriptor: int, temporary: Path | None, integrity: Integrity) -> None:
        """Give a measured, synced, open file of the cache its name as a blob; its temporary name goes.

        What stands there already stays when it is the blob, and goes to quarantine when it is not.

        Raises:
            OSError: the file system refused.
        """
        final = self.path(integrity.digest)
        durability = self.options.durability
        named = self._directories.inside(
            final.parent, durability, lambda: self._named(descriptor, temporary, integrity, final)
        )
        files.sync_directory(final.parent, durability)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if named == "now":
            self.shelf.memo.put(Fingerprint.of(os.fstat(descriptor)), integrity.digest.hex)

    def _named(
        self, descriptor: int, temporary: Path | None, integrity: Integrity, final: Path
    ) -> Literal["now", "before"]:
        for _ in range(_NAMING_ATTEMPTS):
            try:
                atomic.link_new(descriptor, temporary, final)
            except FileExistsError:
                if self.shelf.found(integrity) is not None:
                    return "before"
            else:
                return "now"
        raise FileExistsError(errno.EEXIST, "something else stands there again and again", str(final))

    def temporary(self) -> BinaryIO:
        """Return an anonymous file beside the blobs, gone when closed; it raises StoreUnavailableError when it is full.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        directory = self._directory("tmp")
        with files.translated(directory):
            temporary = atomic.Temporary(directory, 0o600)
            if temporary.path is not None:
                temporary.path.unlink()
        return temporary.spool(directory)

    @contextlib.contextmanager
    def partial(self, integrity: Integrity) -> Iterator[Partial]:
        """Give the resumable download of a blob; hold `lock` of its digest meanwhile.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        path = self._directory("partial") / f"{integrity.digest.hex}.part"
        with files.translated(path, integrity.size):
            missing = integrity.size - self._resumable(path)
            if missing > _SMALL:
                files.require_space(path.parent, missing)
        with opened(path, self._directory("quarantine"), integrity) as partial:
            yield partial

    def _resumable(self, path: Path) -> int:
        """Return how many bytes an earlier download left; what cannot be one goes out of the way.

        A kill between naming a blob and dropping the partial's name leaves both: that file is the blob's now.
        """
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return 0
        if not stat.S_ISREG(status.st_mode):
            self.shelf.quarantine(path, None, "no partial download")
        elif status.st_nlink > 1 or self.options.trust.objection(status) or not os.access(path, os.R_OK | os.W_OK):
            path.unlink()  # or it is a download of somebody else of the group
        else:
            return status.st_size
        return 0

    def finish(self, partial: Partial) -> None:
        """Verify a partial download and make it a blob.

        Raises:
            SizeMismatchError, DigestMismatchError: it is not what was promised.
        """
        partial.publish(lambda descriptor, path: self.name(descriptor, path, partial.expected), self.options.durability)

    @contextlib.contextmanager
    def lock(self, name: str, progress: Progress | None = None) -> Iterator[None]:
        """Hold the lock called `name` (hex digits); another process waits, and says for whom.

        Raises:
            StoreUnavailableError: it was not given up in time.
            CancelledError: the run was asked to stop.
        """
        path = self._directory("locks") / name
        with locked(path, timeout_s=self.options.lock_timeout_s, progress=progress or Silent()):
            yield

    def guarded(self) -> list[Path]:
        """Return the directories that nobody else may write: while their rights are the same, so is that answer."""
        return [path for shelf in self._shelves for path in shelf.guarded]

    def witnesses(self, *, digest: Digest | None = None, key: str = "") -> list[str]:
        """Return the files that decide whether a blob is here, or what is recorded for a recipe key."""
        blobs = [shelf.place(digest) for shelf in self._shelves] if digest is not None else []
        return blobs + ([shelf.result_place(key) for shelf in self._shelves] if key else [])

    # --- results

    def result(self, key: str) -> Result | None:
        """Return what a recipe key gave, or None when nothing readable is recorded.

        Raises:
            StoreUnavailableError: others can write the cache.
        """
        for shelf in self._shelves:
            with contextlib.suppress(OSError, ValueError):
                return results.read(Path(shelf.result_place(key)), key, self.options.trust)
        return None

    def record(self, result: Result) -> None:
        """Remember what a recipe key gave.

        Nothing is synced: a note that a power loss took or tore fails its own check, and is made again.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        self._directory("results")
        final = Path(self.shelf.result_place(result.key))
        with files.translated(final), self._scratch(0o644) as temporary:
            temporary.write(results.encoded(result).encode("ascii"))
            temporary.finish("fast")
            scratches = self._directory("tmp")
            self._directories.inside(
                final.parent,
                "fast",
                lambda: atomic.replace_file(temporary.descriptor, temporary.path, final, scratches),
            )

    @contextlib.contextmanager
    def _scratch(self, mode: int) -> Iterator[atomic.Temporary]:
        """Give a file in the making.

        Raises:
            StoreUnavailableError: the cache cannot be written.
        """
        directory = self._directory("tmp")
        with files.translated(directory):
            temporary = atomic.Temporary(directory, mode)
        try:
            yield temporary
        finally:
            temporary.close()

    # --- out of the store

    def publish(self, integrity: Integrity, path: Path) -> None:
        """Put a blob at `path` inside the cache: a hard link, else a copy.

        Raises:
            BlobMissingError, BlobCorruptError: as `open`.
            StoreUnavailableError: `path` cannot be written.
        """
        with self.open(integrity) as file, files.translated(path, integrity.size):
            # a link that a power loss takes is made again, so that no directory is synced
            self._directories.inside(path.parent, "fast", lambda: self._put(file, path, integrity))

    def _put(self, file: BinaryIO, path: Path, integrity: Integrity) -> None:
        if not self._linked(file, path, integrity):
            with self._scratch(0o444) as temporary:
                fill(file, temporary.descriptor, "auto", Silent())
                temporary.finish(self.options.durability)
                atomic.replace_file(temporary.descriptor, temporary.path, path, self._directory("tmp"))

    def _linked(self, file: BinaryIO, path: Path, integrity: Integrity) -> bool:
        """Whether `path` could be made a link to the open blob, whose fingerprint that changes."""
        blob = self.path(integrity.digest)
        if not isinstance(file, LeasedBlob) or not system_calls.is_same(file.fileno(), blob):
            return False  # a shared cache is not touched
        file.confirm()
        try:
            atomic.link_over(file.fileno(), blob, path, self._directory("tmp"))
        except OSError as error:
            if error.errno not in system_calls.NOT_OFFERED:
                raise
            return False
        fingerprint = Fingerprint.of(os.fstat(file.fileno()))
        if (fingerprint.mtime_ns, fingerprint.size) == (file.fingerprint.mtime_ns, file.fingerprint.size):
            file.fingerprint = fingerprint  # only the links changed
            self.shelf.memo.put(fingerprint, integrity.digest.hex)
        return True
