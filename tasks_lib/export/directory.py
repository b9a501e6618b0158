"""The directory of an export: write what is missing, remove what an earlier export wrote and nobody needs any more.

A record of each layout and project, below `.doit-fetch/`, has the files that were written. Only those are replaced or
removed. The record is written before the files, so that it has every file that a killed export wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tasks_lib.cache import Cache
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import TreeError, escape_text
from tasks_lib.fs.atomic import scratch_name
from tasks_lib.fs.directories import DirectoryChain
from tasks_lib.fs.locks import remove_stale_files
from tasks_lib.progress import Progress
from tasks_lib.project import Project
from tasks_lib.relpath import RelPath

#: Directory of the records, inside that of the export; temporary files are in it, too.
RECORDS: Final = ".doit-fetch"
#: Maximum size of a record in bytes: 500,000 files.
_MAX_RECORD_BYTES: Final = 256 << 20
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class WantedFile(NamedTuple):
    """A file of an export: a blob of the cache, or a text of this mode; `names` are the definitions that it is of."""

    path: str
    integrity: Integrity
    names: tuple[str, ...]
    text: bytes | None = None
    mode: int = 0


class RecordedFile(msgspec.Struct, frozen=True):
    """A file that an export wrote; `names` are the definitions that it is of, () for all, `blob` is its sha256."""

    size: int
    sha256: str
    names: tuple[str, ...] = ()
    is_text: bool = False

    @property
    def integrity(self) -> Integrity:
        """What the file contains, as it was written."""
        return Integrity(size=self.size, digest=Digest.sha256(self.sha256))


class ExportRecord(msgspec.Struct):
    """What exports of one layout wrote: files by path, and the directories that they created."""

    files: dict[str, RecordedFile] = {}
    directories: tuple[str, ...] = ()


class Changes(NamedTuple):
    """The number of files that an export wrote, left unchanged and removed."""

    written: int
    unchanged: int
    removed: int


class ExportDirectory:
    """The directory of an export; the caller holds a lock on it."""

    def __init__(self, path: Path, layout: str, owner: str, cache: Cache, progress: Progress) -> None:
        """Read the records of the directory, if it exists.

        `path` has no symlinks; `owner` identifies the project whose definitions are exported; `cache` has the blobs.

        Raises:
            TreeError: a record cannot be read.
        """
        self.path, self._cache, self._progress = path, cache, progress
        self._own = f"{layout}-{hashlib.sha256(os.fsencode(owner)).hexdigest()[:12]}.json"
        self.record = read_record(path / RECORDS / self._own)
        self._others: dict[str, RecordedFile] = {}
        for other in sorted((path / RECORDS).glob("*.json")):
            if other.name != self._own:
                self._others.update(read_record(other).files)
        self._created = list(self.record.directories)

    def kept(self, is_stale: Callable[[RecordedFile], bool]) -> dict[str, RecordedFile]:
        """Return the downloads of the record that are not stale and exist, by path."""
        return {
            path: one
            for path, one in self.record.files.items()
            if not one.is_text and not is_stale(one) and os.path.lexists(self.path / path)
        }

    def update(self, wanted: Mapping[str, WantedFile], is_stale: Callable[[RecordedFile], bool]) -> Changes:
        """Write the wanted files that are missing; remove those of the record that are stale and not wanted.

        Raises:
            TreeError: a file of somebody else is at one of the paths, or the file system rejects an operation.
            BlobMissingError, BlobCorruptError, CacheUnavailableError: a blob cannot be read.
            CancelledError: the run is cancelled.
        """
        missing = [one for one in wanted.values() if not self._has(one)]
        recorded = {**self._others, **self.record.files}
        self._check_foreign(missing, recorded)
        ours = {*recorded, *(one.path for one in missing)}
        new = {path: _recorded(one, self.record.files) for path, one in wanted.items() if path in ours}
        stale = [path for path, one in self.record.files.items() if path not in wanted and is_stale(one)]
        kept = {path: one for path, one in self.record.files.items() if path not in stale}
        try:
            if missing:
                (self.path / RECORDS).mkdir(parents=True, exist_ok=True)
                remove_stale_files(self.path / RECORDS)
                self._write_record({**self.record.files, **new})
                self._write_files(missing)
            removed = self._remove_files(stale)
            self._write_record({**kept, **new})
        except OSError as error:
            message = f"cannot export to {escape_text(str(self.path))}: {error.strerror or error}"
            raise TreeError(message, hint="check its permissions and the free space") from error
        return Changes(len(missing), len(wanted) - len(missing), removed)

    def _has(self, one: WantedFile) -> bool:
        path = self.path / one.path
        if one.text is None:
            return self._cache.matches(path, one.integrity)
        try:
            return not path.is_symlink() and path.stat().st_size == len(one.text) and path.read_bytes() == one.text
        except OSError:
            return False

    def _check_foreign(self, missing: Iterable[WantedFile], recorded: Collection[str]) -> None:
        """Require that nothing is replaced that no export wrote.

        Raises:
            TreeError: a path is taken.
        """
        new = (one.path for one in missing if one.path not in recorded)
        taken = next((path for path in new if os.path.lexists(self.path / path)), "")
        if taken:
            raise TreeError(
                f"{escape_text(str(self.path / taken))} exists, and no export wrote it",
                hint="move it away, or export to another directory",
            )

    def _write_files(self, missing: Iterable[WantedFile]) -> None:
        with DirectoryChain(self.path) as chain, DirectoryChain(self.path / RECORDS) as records:
            for one in sorted(missing):
                self._progress.check()
                directory, _, name = os.fsencode(one.path).rpartition(b"/")
                target = self._enter(chain, directory)
                scratch = scratch_name()
                try:
                    self._create(one, scratch, records.root)
                    os.rename(scratch, name, src_dir_fd=records.root, dst_dir_fd=target)
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(scratch, dir_fd=records.root)

    def _create(self, one: WantedFile, name: str, directory: int) -> None:
        if one.text is None:
            self._cache.export(one.integrity, name, directory, self._progress)
            return
        with open(os.open(name, _CREATE, one.mode, dir_fd=directory), "wb") as file:  # noqa: PTH123  # a descriptor
            file.write(one.text)

    def _enter(self, chain: DirectoryChain, path: bytes) -> int:
        """Return the descriptor of a directory of the export; create it if it is missing."""
        try:
            return chain.enter(path)
        except FileNotFoundError:
            parent, _, name = path.rpartition(b"/")
            os.mkdir(name, dir_fd=self._enter(chain, parent))
            self._created.append(os.fsdecode(path))
            return chain.enter(path)

    def _remove_files(self, stale: Iterable[str]) -> int:
        """Remove files that still are as they were written and that no other record has; return how many."""
        removed = 0
        for path in stale:
            if path not in self._others and self._cache.matches(self.path / path, self.record.files[path].integrity):
                (self.path / path).unlink()
                removed += 1
        if removed:
            for directory in sorted(self._created, reverse=True):
                with contextlib.suppress(OSError):  # it is not empty
                    (self.path / directory).rmdir()
                    self._created.remove(directory)
        return removed

    def _write_record(self, files: dict[str, RecordedFile]) -> None:
        record = ExportRecord(files=dict(sorted(files.items())), directories=tuple(sorted(self._created)))
        if record == self.record or not (record.files or self.record.files):
            return
        path = self.path / RECORDS / self._own
        scratch = path.with_name(scratch_name())
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
        scratch.replace(path)
        self.record = record


@contextlib.contextmanager
def open_export(project: Project, directory: Path, layout: str, progress: Progress) -> Iterator[ExportDirectory]:
    """Lock the directory of an export; yield it.

    Raises:
        TreeError: a record cannot be read.
    """
    path, cache = Path(os.path.realpath(directory)), project.context.cache
    with cache.lock(hashlib.sha256(b"export " + os.fsencode(path)).hexdigest(), progress, "the lock of the export"):
        yield ExportDirectory(path, layout, str(project.context.settings.fetchdefs.absolute()), cache, progress)


def _recorded(one: WantedFile, known: Mapping[str, RecordedFile]) -> RecordedFile:
    """Return the record of a wanted file; definitions that an earlier export had stay its users."""
    earlier = known[one.path].names if one.path in known else ()
    names = tuple(sorted({*one.names, *earlier})) if one.names else ()
    return RecordedFile(one.integrity.size, one.integrity.digest.hex, names, one.text is not None)


def read_record(path: Path) -> ExportRecord:
    """Return a record, an empty one if the file is missing.

    Raises:
        TreeError: it cannot be read, or has a path that leaves the directory.
    """
    try:
        with path.open("rb") as file:
            record = msgspec.json.decode(file.read(_MAX_RECORD_BYTES), type=ExportRecord)
        for name in (*record.files, *record.directories):
            RelPath(name)
        for one in record.files.values():
            one.integrity  # noqa: B018  # is validated
    except FileNotFoundError:
        return ExportRecord()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TreeError(
            f"cannot read the record of an export, {escape_text(str(path))}: {escape_text(str(reason))}",
            hint="remove it: the files that are there then count as files of others",
        ) from None
    return record
