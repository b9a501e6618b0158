"""Extracted trees and their manifests: whether a tree is unchanged, and its removal."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from tasks_lib.cache import LOCK_TIMEOUT_S
from tasks_lib.errors import TreeError, escape_text
from tasks_lib.fs.directories import remove_tree
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.fs.locks import locked
from tasks_lib.progress import Progress
from tasks_lib.tree.manifest import (
    ManifestEntry,
    ManifestWriter,
    all_unchanged,
    is_incomplete,
    list_stems,
    read_manifest,
    read_manifest_header,
    remove_entries,
)


class RecordedTree(NamedTuple):
    """A (possibly shared) directory into which one archive or file was extracted; `record` is the manifest outside it.

    `beside` lists name and current key of the extractions that share the directory; entries of one of them with another
    key are out of date and will be replaced. `worked` is a file that marks the directory as one in which a command ran:
    as long as it exists, the directory is reset before an entry is added.
    """

    destination: Path
    record: Path
    lock_timeout_s: float = LOCK_TIMEOUT_S
    beside: tuple[tuple[str, str], ...] = ()
    worked: Path | None = None

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
        before = find_status(self.record)
        with locked(self.lock, timeout_s=self.lock_timeout_s, progress=progress):
            after = find_status(self.record)
            yield after is not None and (before is None or Fingerprint.of(before) != Fingerprint.of(after))

    @property
    def lock(self) -> Path:
        """Path of the file that locks this extraction against other processes."""
        return self.record.with_suffix(".lock")

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

    def _others(self, *suffixes: str) -> Iterator[RecordedTree]:
        """Yield the other extractions that have files with one of these suffixes in the manifest directory."""
        for stem in sorted(list_stems(self.record.parent, *suffixes) - {self.record.stem}):
            yield RecordedTree(self.destination, self.record.with_name(f"{stem}.json"))

    def _stood(self) -> RecordedTree:
        """Return this extraction with the destination that its manifest names."""
        return self._placed_by(self.record)

    def _placed_by(self, record: Path) -> RecordedTree:
        """Return this extraction with the destination that a manifest names; early manifests did not name one.

        A destination that is not next to the manifest directory was never requested, so it must not be cleared.
        """
        into = os.path.normpath(str(read_manifest_header(record).get("into") or self._into))
        beside = into.startswith("../") and not into.startswith("../..")
        if not beside or into == self._into:
            return self
        return self._replace(destination=Path(os.path.normpath(self.record.parent / into)))

    @property
    def _into(self) -> str:
        return os.path.relpath(self.destination, self.record.parent)

    @property
    def _moving(self) -> Path:
        """Path of the manifest while its entries are added or removed; the next run cleans up after a kill."""
        return self.record.with_suffix(".moving")

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

    def directories(self) -> list[Path]:
        """Return the destination and the directories above it that extractions create."""
        top = self.record.parent.parent
        places = (self.destination, *self.destination.parents)
        return list(itertools.takewhile(lambda place: top in place.parents, places))

    def _is_redirected(self) -> bool:
        """Return whether a component of the destination was replaced by a symlink; what is behind it is not ours."""
        return any(place.is_symlink() for place in self.directories())

    def _locked(self, progress: Progress) -> contextlib.AbstractContextManager[None]:
        """Return a lock against changes by other extractions with manifests in the same directory."""
        return locked(self.record.parent / ".lock", timeout_s=self.lock_timeout_s, progress=progress)

    def _rewrite(self, place: Path, archive: str, kept: Iterable[ManifestEntry]) -> None:
        """Write a manifest without a key to `place`; the caller holds the lock of the manifest directory."""
        record = ManifestWriter(self._next, "", archive, self._into)
        try:
            record.take(kept)
            record.close()
            record.commit(place)
        finally:
            record.discard()

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
        for place in self.directories():
            try:
                place.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return


def find_status(path: Path) -> os.stat_result | None:
    """Return the status of a path, None if it does not exist."""
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
        place = escape_text(os.fsdecode(error.filename)) if error.filename is not None else str(destination)
        raise TreeError(
            f"cannot write {destination}: {place}: {error.strerror or error}", hint="check space and permissions"
        ) from error
