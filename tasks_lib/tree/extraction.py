"""Extraction of one archive or file: written to a staging directory, validated, renamed into place and recorded."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import BinaryIO, NamedTuple

from tasks_lib.archive import Reshape, read
from tasks_lib.cache import LOCK_TIMEOUT_S
from tasks_lib.errors import TreeError, escape_text
from tasks_lib.fs.copying import LinkMode
from tasks_lib.fs.files import DirectoryChain
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.fs.locks import locked
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress
from tasks_lib.tree.cached_tree import CachedTree
from tasks_lib.tree.compare import Comparison
from tasks_lib.tree.manifest import (
    ManifestEntry,
    ManifestWriter,
    all_unchanged,
    find_new_paths,
    is_incomplete,
    list_stems,
    read_manifest,
    read_manifest_header,
    remove_entries,
)
from tasks_lib.tree.writer import TreeWriter, file_entry, remove_tree


class Extraction(NamedTuple):
    """The extraction of one archive or file into a (possibly shared) directory; `record` is its manifest outside it.

    `beside` lists name and current key of the extractions that share the directory; entries of one of them with another
    key are out of date and will be replaced. `worked` is a file that marks the directory as one in which a command ran:
    as long as it exists, the directory is reset before an entry is added.
    """

    destination: Path
    record: Path
    lock_timeout_s: float = LOCK_TIMEOUT_S
    beside: tuple[tuple[str, str], ...] = ()
    worked: Path | None = None

    @contextlib.contextmanager
    def held(self, progress: Progress) -> Iterator[bool]:
        """Lock this extraction against other processes; yield True if its manifest changed while waiting for the lock.

        Raises:
            CacheUnavailableError: another process holds the lock for too long; the message names the process.
            TreeError: a file system operation failed.
            CancelledError: the run was asked to stop while waiting.
        """
        with os_errors_as_tree_errors(self.destination):
            self.record.parent.mkdir(parents=True, exist_ok=True)
        before = _lstat(self.record)
        with locked(self.lock, timeout_s=self.lock_timeout_s, progress=progress):
            after = _lstat(self.record)
            yield after is not None and (before is None or Fingerprint.of(before) != Fingerprint.of(after))

    def extract(
        self,
        source: BinaryIO,
        *,
        name: str,
        format: str,
        reshape: Reshape,
        limits: Limits,
        key: str,
        progress: Progress,
    ) -> None:
        """Extract an archive into the destination; replace the previous content of this extraction.

        Raises:
            ArchiveError: the archive is rejected; the destination is unchanged.
            TreeError: another extraction has an entry with the same path, or a file system operation failed.
            CancelledError: the run was asked to stop.
        """

        def fill(writer: TreeWriter) -> None:
            read(
                source,
                name=name,
                format=format,
                reshape=reshape,
                limits=limits,
                sink=writer.add,
                repeats=writer.repeats,
            )

        self._fill(fill, name, key, progress, limits.max_total_bytes)

    def lay(
        self, unpacked: CachedTree, *, name: str, how: LinkMode, limits: Limits, key: str, progress: Progress
    ) -> None:
        """Link or copy a cached tree into the destination; replace the previous content of this extraction.

        Raises:
            DamagedTreeError: the cached tree was changed; the destination is unchanged.
            TreeError, CancelledError: see `extract`.
        """
        self._fill(lambda writer: unpacked.lay(writer, how), name, key, progress, limits.max_total_bytes)

    def place(
        self, source: BinaryIO, *, file_name: str, key: str, how: LinkMode, progress: Progress, executable: int = 0
    ) -> None:
        """Link or copy one file into the destination; replace the previous content of this extraction.

        ELF files and scripts become executable, and every file if `executable` is 1. An executable file is never a link
        because it needs its own mode.

        Raises:
            TreeError, CancelledError: see `extract`.
        """

        def fill(writer: TreeWriter) -> None:
            for entry in file_entry(source, file_name, executable):
                writer.place(entry, source, how)

        self._fill(fill, file_name, key, progress, 0)

    def differences(
        self,
        source: BinaryIO,
        *,
        name: str,
        format: str | None,
        reshape: Reshape,
        limits: Limits,
        progress: Progress,
    ) -> dict[str, str]:
        """Compare the destination with its source; return a mapping from path to the reason why it differs.

        Args:
            source: the archive, or the file that was placed.
            name: the name of the archive, or of the placed file.
            format: the format of the archive, None for a placed file.
            reshape: what the extraction changed.
            limits: limits for this archive.
            progress: receives the number of bytes compared.

        Raises:
            ArchiveError: the archive cannot be read.
            CancelledError: the run was asked to stop.
        """
        with Comparison(self.destination, progress) as comparison:
            if format is None:
                for entry in file_entry(source, name, reshape.executable):
                    comparison.add(entry)
            else:
                read(
                    source,
                    name=name,
                    format=format,
                    reshape=reshape,
                    limits=limits,
                    sink=comparison.add,
                    repeats=comparison.repeats,
                )
        return comparison.differences

    def invalidate(self, progress: Progress) -> None:
        """Remove the key from the manifest, so that the next run replaces the destination.

        Raises:
            TreeError: a file system operation failed.
            CacheUnavailableError, CancelledError: see `held`.
        """
        with os_errors_as_tree_errors(self.destination), self._locked(progress):
            if not is_incomplete(self.record):
                self._rewrite(
                    self.record, str(read_manifest_header(self.record).get("archive", "")), read_manifest(self.record)
                )

    def forget(self) -> None:
        """Replace the manifest by an empty one, because its entries are about to be removed with the whole directory.

        The caller holds the lock of the manifest directory.

        Raises:
            OSError: a file system operation failed.
        """
        self._rewrite(self.record, "", ())
        self._moving.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove partial files of a killed run; the caller holds the lock of this extraction.

        Raises:
            OSError: a file system operation failed.
        """
        remove_tree(self._part)
        self._new.unlink(missing_ok=True)

    def _rewrite(self, place: Path, archive: str, kept: Iterable[ManifestEntry]) -> None:
        """Write a manifest without a key to `place`; the caller holds the lock of the manifest directory."""
        record = ManifestWriter(self._next, "", archive, self._into)
        try:
            record.take(kept)
            record.close()
            record.commit(place)
        finally:
            record.discard()

    def _fill(self, fill: Callable[[TreeWriter], None], name: str, key: str, progress: Progress, copies: int) -> None:
        with os_errors_as_tree_errors(self.destination):
            self.record.parent.mkdir(parents=True, exist_ok=True)
            self.sweep()
            self._part.mkdir(mode=0o755)
            record = ManifestWriter(self._new, key, name, self._into)
            try:
                with TreeWriter(self._part, record, progress, copies) as writer:
                    fill(writer)
                    writer.finish()
                record.close()
                self._publish(record, name, progress)
            finally:
                try:
                    record.discard()
                finally:
                    remove_tree(self._part)

    def _publish(self, record: ManifestWriter, name: str, progress: Progress) -> None:
        with self._locked(progress):
            if self.worked is not None:  # the command of another process may have started since the last check
                reset_worked(self._way()[-1], self.record.parent, self.worked)
            self.recover()
            self._adopt_incomplete(record)
            self._resolve_collisions(record, name)  # before anything is removed: on a collision nothing changes
            if os.path.lexists(self.record):
                self._withdraw_entries()
            record.commit(self._moving)
            try:
                self._move(name)
                remove_tree(self._part)  # before the manifest is final: the next run removes the rest
            except BaseException:
                self.recover()
                raise
            self._moving.replace(self.record)

    def _locked(self, progress: Progress) -> contextlib.AbstractContextManager[None]:
        """Return a lock against changes by other extractions with manifests in the same directory."""
        return locked(self.record.parent / ".lock", timeout_s=self.lock_timeout_s, progress=progress)

    def _resolve_collisions(self, coming: ManifestWriter, name: str) -> None:
        """Check for collisions; if there is one, remove out-of-date extractions that share the directory and retry."""
        try:
            self._judge(coming, name)
        except TreeError:
            if not self._clear_earlier():
                raise
            self._judge(coming, name)

    def _judge(self, coming: ManifestWriter, name: str) -> None:
        """Check that no path of `coming` exists, except those of this extraction.

        Raises:
            TreeError: such a path exists, or the destination cannot be used.
        """
        for place in reversed(self._way()):
            status = _lstat(place)
            if status is None:
                return
            if not stat.S_ISDIR(status.st_mode):
                raise self._obstacle(name, place)
        status = self.destination.lstat()
        if status.st_dev != self._part.lstat().st_dev:
            raise TreeError(
                f"{self.destination} and {self.record.parent} are on different file systems",
                hint="put both on one file system, for example by mounting their parent directory",
            )
        into = f"{self._into}/"
        own = frozenset(path.removeprefix(into) for path in self.owned_paths() if path.startswith(into))
        find_new_paths(self.destination, read_manifest(coming.path), own, lambda path: self._clash(name, path))

    def _clear_earlier(self) -> bool:
        """Remove out-of-date extractions that share the directory; return whether there was any.

        An interrupted extraction counts as out of date.
        """
        wanted = dict(self.beside)
        removed = False
        for one in self._others(".json", ".moving"):
            key = read_manifest_header(one.record).get("key", "")
            if os.path.lexists(one._moving) or wanted.get(one.record.stem, key) != key:
                one.recover()
                one.withdraw()
                removed = True
        return removed

    def _move(self, name: str) -> None:
        if not os.path.lexists(self.destination):
            self.destination.parent.mkdir(parents=True, exist_ok=True)
            self._part.rename(self.destination)
            return
        # add new entries next to those of other extractions
        new = find_new_paths(
            self.destination, read_manifest(self._moving), frozenset(), lambda path: self._clash(name, path)
        )
        with DirectoryChain(self._part) as here, DirectoryChain(self.destination) as there:
            for path in new:
                directory, _, last = os.fsencode(path).rpartition(b"/")
                os.rename(last, last, src_dir_fd=here.enter(directory), dst_dir_fd=there.enter(directory))

    @property
    def _into(self) -> str:
        return os.path.relpath(self.destination, self.record.parent)

    def _stood(self) -> Extraction:
        """Return this extraction with the destination that its manifest names."""
        return self._placed_by(self.record)

    def _placed_by(self, record: Path) -> Extraction:
        """Return this extraction with the destination that a manifest names; early manifests did not name one.

        A destination that is not next to the manifest directory was never requested, so it must not be cleared.
        """
        into = os.path.normpath(str(read_manifest_header(record).get("into") or self._into))
        beside = into.startswith("../") and not into.startswith("../..")
        if not beside or into == self._into:
            return self
        return self._replace(destination=Path(os.path.normpath(self.record.parent / into)))

    @property
    def _moving(self) -> Path:
        """Path of the manifest while its entries are added or removed; the next run cleans up after a kill."""
        return self.record.with_suffix(".moving")

    @property
    def lock(self) -> Path:
        """Path of the file that locks this extraction against other processes."""
        return self.record.with_suffix(".lock")

    @property
    def _part(self) -> Path:
        """Path of the staging directory, on the file system of the destination; guarded by the extraction's lock."""
        return self.record.with_suffix(".part")

    @property
    def _new(self) -> Path:
        """Path of the manifest while the staging directory is filled."""
        return self.record.with_suffix(".new")

    @property
    def _next(self) -> Path:
        """Path of a manifest that is being rewritten; guarded by the lock of the manifest directory."""
        return self.record.with_suffix(".next")

    def _adopt_incomplete(self, coming: ManifestWriter) -> None:
        """If the current manifest is incomplete, assume that it listed the new entries; nothing else records them."""
        torn = [one for one in (self.record, self._moving) if os.path.lexists(one) and is_incomplete(one)]
        if not torn:
            return
        self._placed_by(torn[0])._rewrite(self._moving, "", read_manifest(coming.path))
        self.record.unlink(missing_ok=True)
        self.recover()

    def recover(self, others: frozenset[str] | None = None) -> None:
        """Remove entries of an interrupted extraction or removal; the caller holds the lock of the manifest directory.

        They are removed from the destination of the interrupted run, which may differ from the current one.

        Args:
            others: paths of other extractions, from `owned`, which are kept; None: read their manifests.

        Raises:
            OSError: a file system operation failed; the next call continues.
        """
        if not os.path.lexists(self._moving):
            return
        if os.path.lexists(self.record):  # killed in `_withdraw_entries`: its key must not outlive its entries
            self._rewrite(self.record, "", ())
        if others is None:
            others = frozenset(path for other in self._others(".json") for path in other.owned_paths())
        self._placed_by(self._moving)._remove_recorded(others)

    def withdraw(self, others: frozenset[str] = frozenset()) -> None:
        """Remove all entries of this extraction from the destination that its manifest names.

        The caller holds the lock of the manifest directory.

        Args:
            others: paths of other extractions, from `owned`, which are kept.

        Raises:
            OSError: a file system operation failed; the next call of `recover` continues.
        """
        stood = self._stood()
        with contextlib.suppress(FileNotFoundError):
            self.record.replace(self._moving)
        stood._remove_recorded(others)

    def _withdraw_entries(self) -> None:
        """Remove all entries as `withdraw` does, but keep an empty manifest: it is a target of another run's task."""
        stood = self._stood()
        try:
            os.link(self.record, self._moving)
        except OSError:  # the file system has no hard links: for a moment there is no manifest
            self.record.replace(self._moving)
        self._rewrite(self.record, "", ())
        stood._remove_recorded(frozenset())

    def _others(self, *suffixes: str) -> Iterator[Extraction]:
        """Yield the other extractions that have files with one of these suffixes in the manifest directory."""
        for stem in sorted(list_stems(self.record.parent, *suffixes) - {self.record.stem}):
            yield Extraction(self.destination, self.record.with_name(f"{stem}.json"))

    def owned_paths(self) -> Iterator[str]:
        """Yield the paths of this extraction, relative to the manifest directory.

        They include the destination and the directories above it. For an incomplete manifest, yield the readable part.

        Raises:
            OSError: the manifest cannot be read.
        """
        stood = self._stood()
        into = stood._into
        yield from map(str, (into, *PurePath(into).parents))
        with contextlib.suppress(ValueError, TypeError):
            for line in read_manifest(self.record):
                yield f"{into}/{line.path}"

    def _remove_recorded(self, others: frozenset[str]) -> None:
        """Remove the entries in the manifest at `_moving`, except those in `others`, then that manifest."""
        into = self._into
        gone = (line for line in read_manifest(self._moving) if f"{into}/{line.path}" not in others)
        try:
            if not self._is_redirected():
                remove_entries(self.destination, gone)
        except (ValueError, TypeError):
            return  # the manifest is incomplete; it stays, so that the next run detects this
        except (FileNotFoundError, NotADirectoryError):
            pass
        self._leave()
        for path in (self._next, self._moving):
            path.unlink(missing_ok=True)

    def _leave(self) -> None:
        """Remove the destination and the directories above it as far as they are empty.

        Empty directories would collide with an archive that contains a file of that name.
        """
        if self._is_redirected():
            return
        for place in self._way():
            try:
                place.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return

    def _is_redirected(self) -> bool:
        """Return whether a component of the destination was replaced by a symlink; what is behind it is not ours."""
        return any(place.is_symlink() for place in self._way())

    def _way(self) -> list[Path]:
        """Return the destination and the directories above it that extractions create."""
        top = self.record.parent.parent
        places = (self.destination, *self.destination.parents)
        return list(itertools.takewhile(lambda place: top in place.parents, places))

    def _clash(self, name: str, path: str) -> TreeError:
        owner = self._owner_of(self.destination / path)
        if owner:
            return TreeError(
                f"{escape_text(name)} and {owner} both put {escape_text(path)!r} into {self.destination}",
                hint="set a different `dest:` for one of them",
            )
        return TreeError(
            f"{escape_text(name)} puts {escape_text(path)!r} into {self.destination}, where it already exists",
            hint="remove it, or set a different `dest:`",
        )

    def _obstacle(self, name: str, place: Path) -> TreeError:
        """Return the error for a component of the destination that is not a directory."""
        owner = self._owner_of(place)
        if not owner:
            return TreeError(f"{place} is not a directory", hint="remove it and run again")
        return TreeError(
            f"{place}, where {escape_text(name)} needs a directory, is a {_kind_of(place)} of {owner}",
            hint="set a different `dest:` for one of them",
        )

    def _owner_of(self, place: Path) -> str:
        path = os.path.relpath(place, self.record.parent)
        for other in self._others(".json"):
            if path in other.owned_paths():
                return escape_text(str(read_manifest_header(other.record).get("archive", "")))
        return ""

    def key(self) -> str:
        """Return the key in the manifest, "" if there is none or the manifest cannot be read."""
        try:
            return str(read_manifest_header(self.record).get("key", ""))
        except OSError:
            return ""

    def holds(self, key: str) -> bool:
        """Return whether all entries of `key` still exist with the same kind, size and time; content is not read.

        A manifest is written after its entries, so a later mtime means that the file was changed.
        """
        if self.key() != key or self._is_redirected():
            return False
        try:
            written_ns = self.record.stat().st_mtime_ns
            return all_unchanged(self.destination, read_manifest(self.record), written_ns)
        except (OSError, ValueError, TypeError):
            return False

    def paths(self) -> Iterator[Path]:
        """Yield every path of this extraction; nothing if its manifest is incomplete or cannot be read."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            entries = list(read_manifest(self.record))
            yield from (self.destination / entry.path for entry in entries)

    def clear(self, progress: Progress) -> None:
        """Remove all entries of this extraction, directories only if they are empty.

        Raises:
            TreeError: a file system operation failed.
            CacheUnavailableError, CancelledError: see `held`.
        """
        if not any(map(os.path.lexists, (self.record, self._moving))):
            return
        with os_errors_as_tree_errors(self.destination), self._locked(progress):
            self.recover()
            self.withdraw()


def reset_worked(directory: Path, records: Path, worked: Path) -> None:
    """Remove a directory in which a command ran, and make its manifests empty; without `worked`, do nothing.

    The caller holds the lock of the manifest directory. The manifest files are kept because they are targets of doit
    tasks; the mark is removed last.

    Raises:
        OSError: a file system operation failed; the next call continues.
    """
    if not os.path.lexists(worked):
        return
    for name in list_stems(records, ".json", ".moving"):
        Extraction(directory, records / f"{name}.json").forget()
    if directory.is_symlink() or directory.is_file():
        directory.unlink()
    remove_tree(directory)
    worked.unlink()


def _kind_of(path: Path) -> str:
    return f"symlink to {escape_text(os.fsencode(path.readlink()))!r}" if path.is_symlink() else "file"


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def os_errors_as_tree_errors(destination: Path) -> Iterator[None]:
    """Convert an OSError raised inside the context to a TreeError.

    Raises:
        TreeError: a file system operation failed.
    """
    try:
        yield
    except OSError as error:
        place = escape_text(str(error.filename)) if error.filename is not None else str(destination)
        raise TreeError(
            f"cannot write {destination}: {place}: {error.strerror or error}", hint="check space and permissions"
        ) from error
