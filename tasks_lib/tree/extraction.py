"""Extraction of one archive or file: written to a staging directory, validated, renamed into place and recorded."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tasks_lib.archive import Reshape, read
from tasks_lib.errors import TreeError, escape_text
from tasks_lib.fs.copying import LinkMode
from tasks_lib.fs.directories import DirectoryChain, remove_tree
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress
from tasks_lib.tree.cached_tree import CachedTree
from tasks_lib.tree.compare import Comparison
from tasks_lib.tree.manifest import (
    ManifestWriter,
    find_new_paths,
    is_incomplete,
    read_manifest,
    read_manifest_header,
)
from tasks_lib.tree.recorded_tree import RecordedTree, find_status, os_errors_as_tree_errors
from tasks_lib.tree.stale_entries import reset_worked
from tasks_lib.tree.writer import TreeWriter, file_entry


class Extraction(RecordedTree):
    """The extraction of one archive or file into a (possibly shared) directory."""

    __slots__ = ()

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
                sink_files=writer.add_files,
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
                reset_worked(self.directories()[-1], self.record.parent, self.worked)
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

    def _adopt_incomplete(self, coming: ManifestWriter) -> None:
        """If the current manifest is incomplete, assume that it listed the new entries; nothing else records them."""
        torn = [one for one in (self.record, self._moving) if os.path.lexists(one) and is_incomplete(one)]
        if not torn:
            return
        self._placed_by(torn[0])._rewrite(self._moving, "", read_manifest(coming.path))
        self.record.unlink(missing_ok=True)
        self.recover()

    def _withdraw_entries(self) -> None:
        """Remove all entries as `withdraw` does, but keep an empty manifest: it is a target of another run's task."""
        stood = self._stood()
        try:
            os.link(self.record, self._moving)
        except OSError:  # the file system has no hard links: for a moment there is no manifest
            self.record.replace(self._moving)
        self._rewrite(self.record, "", ())
        stood._remove_recorded(frozenset())

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
        for place in reversed(self.directories()):
            status = find_status(place)
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


def _kind_of(path: Path) -> str:
    return f"symlink to {escape_text(os.fsencode(path.readlink()))!r}" if path.is_symlink() else "file"
