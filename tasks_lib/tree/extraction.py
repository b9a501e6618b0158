"""One archive's place: filled beside it, judged as a whole, renamed into it, and recorded."""

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
from tasks_lib.errors import TreeError, escaped
from tasks_lib.fs.copying import LinkMode
from tasks_lib.fs.dirfd import DirectoryChain
from tasks_lib.fs.fingerprint import Fingerprint
from tasks_lib.fs.locks import locked
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress
from tasks_lib.tree.cached_tree import CachedTree
from tasks_lib.tree.compare import Comparison
from tasks_lib.tree.manifest import (
    ManifestEntry,
    ManifestWriter,
    all_stand,
    head,
    is_torn,
    new_paths,
    read_manifest,
    remove_entries,
    stems,
)
from tasks_lib.tree.writer import TreeWriter, placed, remove_tree


class Extraction(NamedTuple):
    """One archive's (or file's) place: a directory that it may share, and a record of its own beside it.

    `beside` gives name and key of the slots that share it: what one of them holds with another key is about to go.
    """

    destination: Path
    record: Path
    lock_timeout_s: float = LOCK_TIMEOUT_S
    beside: tuple[tuple[str, str], ...] = ()

    @contextlib.contextmanager
    def held(self, progress: Progress) -> Iterator[bool]:
        """Keep other processes off this slot; give True when its record changed while this one waited.

        Raises:
            StoreUnavailableError: another process holds it for too long; the message names it.
            TreeError: the file system refused.
            CancelledError: the run was asked to stop while waiting.
        """
        with translated(self.destination):
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
        """Put the archive's tree into the destination, replacing what this slot held.

        Raises:
            ArchiveError: the archive is refused; the destination is as before.
            TreeError: another slot's entry stands in the way, or the file system refused.
            CancelledError: the run was asked to stop.
        """

        def fill(writer: TreeWriter) -> None:
            read(source, name=name, format=format, reshape=reshape, limits=limits, sink=writer.add)

        self._fill(fill, name, key, progress, limits.max_total_bytes)

    def lay(
        self, unpacked: CachedTree, *, name: str, how: LinkMode, limits: Limits, key: str, progress: Progress
    ) -> None:
        """Put an unpacked tree into the destination, replacing what this slot held.

        Raises:
            DamagedTreeError: the unpacked tree is not what it was; the destination is as before.
            TreeError, CancelledError: as `extract`.
        """
        self._fill(lambda writer: unpacked.lay(writer, how), name, key, progress, limits.max_total_bytes)

    def place(self, source: BinaryIO, *, file_name: str, key: str, how: LinkMode, progress: Progress) -> None:
        """Put one plain file into the destination, replacing what this slot held; ELF files become executable.

        A file that runs is never a link, since it needs a mode of its own.

        Raises:
            TreeError, CancelledError: as `extract`.
        """

        def fill(writer: TreeWriter) -> None:
            for entry in placed(source, file_name):
                writer.place(entry, source, how)

        self._fill(fill, file_name, key, progress, 0)

    def differences(
        self,
        source: BinaryIO,
        *,
        name: str,
        format: str | None,
        limits: Limits,
        progress: Progress,
    ) -> dict[str, str]:
        """Return path -> what is wrong there, of what this slot put into its destination.

        Args:
            source: the archive, or the file that was placed.
            name: its name; that of the placed file.
            format: the format of the archive, None for a file that was placed.
            limits: of this archive.
            progress: told of every byte.

        Raises:
            ArchiveError: the archive cannot be read.
            CancelledError: the run was asked to stop.
        """
        with Comparison(self.destination, progress) as comparison:
            if format is None:
                for entry in placed(source, name):
                    comparison.add(entry)
            else:
                read(source, name=name, format=format, reshape=Reshape(), limits=limits, sink=comparison.add)
        return comparison.differences

    def distrust(self, progress: Progress) -> None:
        """Let the record say that what stands is not what was delivered: the next delivery replaces it.

        Raises:
            TreeError: the file system refused.
            StoreUnavailableError, CancelledError: as `held`.
        """
        with translated(self.destination), self._locked(progress):
            if not is_torn(self.record):
                self._rewrite(self.record, str(head(self.record).get("archive", "")), read_manifest(self.record))

    def forget(self) -> None:
        """Let the record name nothing: what it named is about to go with the whole directory.

        Hold the lock of the records meanwhile.

        Raises:
            OSError: the file system refused.
        """
        self._rewrite(self.record, "", ())
        self._moving.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a killed delivery left half-written; hold this slot meanwhile.

        Raises:
            OSError: the file system refused.
        """
        remove_tree(self._part)
        self._new.unlink(missing_ok=True)

    def _rewrite(self, place: Path, archive: str, kept: Iterable[ManifestEntry]) -> None:
        """Write a record without a key at `place`; hold the lock of the records meanwhile."""
        record = ManifestWriter(self._next, "", archive, self._into)
        try:
            record.take(kept)
            record.close()
            record.commit(place)
        finally:
            record.discard()

    def _fill(self, fill: Callable[[TreeWriter], None], name: str, key: str, progress: Progress, copies: int) -> None:
        with translated(self.destination):
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
            self.recover()
            self._presume(record)
            self._make_way(record, name)  # judged before anything goes: a collision leaves what stood
            if os.path.lexists(self.record):
                self.withdraw()
            record.commit(self._moving)
            try:
                self._move(name)
                remove_tree(self._part)  # before the record stands: what cannot go is swept by the next delivery
            except BaseException:
                self.recover()
                raise
            self._moving.replace(self.record)

    def _locked(self, progress: Progress) -> contextlib.AbstractContextManager[None]:
        """Let no other slot of these records publish or remove anything."""
        return locked(self.record.parent / ".lock", timeout_s=self.lock_timeout_s, progress=progress)

    def _make_way(self, coming: ManifestWriter, name: str) -> None:
        """Judge whether what comes has room; an earlier version of a neighbour that is yet to be replaced gives way."""
        try:
            self._judge(coming, name)
        except TreeError:
            if not self._clear_earlier():
                raise
            self._judge(coming, name)

    def _judge(self, coming: ManifestWriter, name: str) -> None:
        """Refuse what stands where an entry of `coming` goes, and is not this slot's own.

        Raises:
            TreeError: there is something.
        """
        for place in reversed(self._way()):
            status = _lstat(place)
            if status is None:
                return
            if not stat.S_ISDIR(status.st_mode):
                raise TreeError(f"{place} is no directory", hint="remove what stands there, and run again")
        status = self.destination.lstat()
        if status.st_dev != self._part.lstat().st_dev:
            raise TreeError(
                f"{self.destination} is on another file system than {self.record.parent}",
                hint="mount the directory above both instead",
            )
        into = f"{self._into}/"
        own = frozenset(path.removeprefix(into) for path in self.owned() if path.startswith(into))
        new_paths(self.destination, read_manifest(coming.path), own, lambda path: self._clash(name, path))

    def _clear_earlier(self) -> bool:
        """Remove earlier versions of neighbours, which are yet to be replaced; return whether there was any.

        What a killed run left of a neighbour counts as one.
        """
        wanted = dict(self.beside)
        found = False
        for one in self._others(".json", ".moving"):
            key = head(one.record).get("key", "")
            if os.path.lexists(one._moving) or wanted.get(one.record.stem, key) != key:
                one.recover()
                one.withdraw()
                found = True
        return found

    def _move(self, name: str) -> None:
        if not os.path.lexists(self.destination):
            self.destination.parent.mkdir(parents=True, exist_ok=True)
            self._part.rename(self.destination)
            return
        # what is new goes beside what others put there
        new = new_paths(
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
        """Return this slot where its record says that it put what it holds."""
        return self._placed_by(self.record)

    def _placed_by(self, record: Path) -> Extraction:
        """Return this slot at the place that a record names; earlier records did not name any.

        A place that is not beside the directory of the records was never asked for, and is nobody's to clear.
        """
        into = os.path.normpath(str(head(record).get("into") or self._into))
        beside = into.startswith("../") and not into.startswith("../..")
        if not beside or into == self._into:
            return self
        return self._replace(destination=Path(os.path.normpath(self.record.parent / into)))

    @property
    def _moving(self) -> Path:
        """Where the record stands while its entries come or go: what a kill leaves there is cleared up by the next."""
        return self.record.with_suffix(".moving")

    @property
    def lock(self) -> Path:
        """Whose lock keeps other processes off this slot."""
        return self.record.with_suffix(".lock")

    @property
    def _part(self) -> Path:
        """Where a delivery is made, on the file system of its destination; who holds this slot has it alone."""
        return self.record.with_suffix(".part")

    @property
    def _new(self) -> Path:
        """Where the record of a delivery is made."""
        return self.record.with_suffix(".new")

    @property
    def _next(self) -> Path:
        """Where a record is written anew; who holds the lock of the records has it alone."""
        return self.record.with_suffix(".next")

    def _presume(self, coming: ManifestWriter) -> None:
        """Where the record of what stands is torn, take it that it named what is coming: nobody else knows."""
        torn = [one for one in (self.record, self._moving) if os.path.lexists(one) and is_torn(one)]
        if not torn:
            return
        self._placed_by(torn[0])._rewrite(self._moving, "", read_manifest(coming.path))
        self.record.unlink(missing_ok=True)
        self.recover()

    def recover(self, others: frozenset[str] | None = None) -> None:
        """Remove what a delivery or a removal that was killed left behind; hold the lock of the records meanwhile.

        It stands where the killed run put it, wherever this slot goes now.

        Args:
            others: what other slots own, as `owned` gives it, which stays; None: look for it.

        Raises:
            OSError: the file system refused; the next call goes on.
        """
        if not os.path.lexists(self._moving):
            return
        if others is None:
            others = frozenset(path for other in self._others(".json") for path in other.owned())
        self._placed_by(self._moving)._unmake(others)

    def withdraw(self, others: frozenset[str] = frozenset()) -> None:
        """Remove what this slot put somewhere, wherever that was; hold the lock of the records meanwhile.

        Args:
            others: what other slots own, as `owned` gives it, which stays.

        Raises:
            OSError: the file system refused; the next call of `recover` goes on.
        """
        stood = self._stood()
        with contextlib.suppress(FileNotFoundError):
            self.record.replace(self._moving)
        stood._unmake(others)

    def _others(self, *suffixes: str) -> Iterator[Extraction]:
        """Yield the other slots that have files with one of these suffixes beside this one's record."""
        for stem in sorted(stems(self.record.parent, *suffixes) - {self.record.stem}):
            yield Extraction(self.destination, self.record.with_name(f"{stem}.json"))

    def owned(self) -> Iterator[str]:
        """Yield the paths, as counted from the directory of the records, of what this slot put somewhere.

        The destination and the directories on the way to it are among them. A record that is torn gives what can be
        read.

        Raises:
            OSError: the record cannot be read.
        """
        stood = self._stood()
        into = stood._into
        yield from map(str, (into, *PurePath(into).parents))
        with contextlib.suppress(ValueError, TypeError):
            for line in read_manifest(self.record):
                yield f"{into}/{line.path}"

    def _unmake(self, others: frozenset[str]) -> None:
        """Remove the entries that the moving record names, but for what others own, then itself."""
        into = self._into
        gone = (line for line in read_manifest(self._moving) if f"{into}/{line.path}" not in others)
        try:
            remove_entries(self.destination, gone)
        except (ValueError, TypeError):
            return  # it is torn, and says so to the next delivery
        except (FileNotFoundError, NotADirectoryError):
            pass
        self._leave()
        for path in (self._next, self._moving):
            path.unlink(missing_ok=True)

    def _leave(self) -> None:
        """Remove the destination, and the directories on the way to it, as far as nothing is in them.

        Left empty, they would be in the way of an archive that has a file of that name.
        """
        for place in self._way():
            try:
                place.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return

    def _way(self) -> list[Path]:
        """Return the destination and the directories above it, as far as deliveries make them."""
        top = self.record.parent.parent
        places = (self.destination, *self.destination.parents)
        return list(itertools.takewhile(lambda place: top in place.parents, places))

    def _clash(self, name: str, path: str) -> TreeError:
        owner = self._owner_of(path)
        return TreeError(
            f"{escaped(name)} and {owner or 'something else'} both put {escaped(path)!r} into {self.destination}",
            hint=f"{'give one of them' if owner else 'remove what stands there, or give it'} a `dest:` of its own",
        )

    def _owner_of(self, path: str) -> str:
        for other in self._others(".json"):
            if f"{self._into}/{path}" in other.owned():
                return escaped(str(head(other.record).get("archive", "")))
        return ""

    def key(self) -> str:
        """Return the key of what stands here, "" for nothing, and for what cannot be read."""
        try:
            return str(head(self.record).get("key", ""))
        except OSError:
            return ""

    def holds(self, key: str) -> bool:
        """Whether this key's entries all still stand: by kind, size and time, without reading content.

        A record is written after all that it names: a file that was written later was written by someone else.
        """
        if self.key() != key:
            return False
        try:
            written_ns = self.record.stat().st_mtime_ns
            return all_stand(self.destination, read_manifest(self.record), written_ns)
        except (OSError, ValueError, TypeError):
            return False

    def paths(self) -> Iterator[Path]:
        """Yield every path that this slot put there; nothing when its record is not whole, or cannot be read."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            made = list(read_manifest(self.record))
            yield from (self.destination / line.path for line in made)

    def clear(self, progress: Progress) -> None:
        """Remove what this slot put there, wherever that was, directories only when nothing else is in them.

        Raises:
            TreeError: the file system refused.
            StoreUnavailableError, CancelledError: as `held`.
        """
        if not any(map(os.path.lexists, (self.record, self._moving))):
            return
        with translated(self.destination), self._locked(progress):
            self.recover()
            self.withdraw()


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def translated(destination: Path) -> Iterator[None]:
    """Tell a refusal of the file system as ours.

    Raises:
        TreeError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        place = escaped(str(error.filename)) if error.filename is not None else str(destination)
        raise TreeError(
            f"cannot write {destination}: {place}: {error.strerror or error}", hint="check space and permissions"
        ) from error
