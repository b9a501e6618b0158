"""One archive's place: filled beside it, judged as a whole, renamed into it, and recorded."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tasks_lib.archive import Limits, Reshape, read
from tasks_lib.errors import TreeError, escaped
from tasks_lib.fingerprint import Fingerprint
from tasks_lib.progress import Progress
from tasks_lib.store import LOCK_TIMEOUT_S, LinkMode, locked
from tasks_lib.tree import staging
from tasks_lib.tree.compare import Comparison
from tasks_lib.tree.descent import Descent
from tasks_lib.tree.record import Line, RecordWriter, head, is_torn, lines
from tasks_lib.tree.standing import all_stand, new_paths, remove_entries
from tasks_lib.tree.unpacked import Unpacked
from tasks_lib.tree.writer import TreeWriter, placed, remove_tree


class Slot(NamedTuple):
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
        # what was begun before has its lock: looking for leftovers lists a directory that all trees share
        begun = os.path.lexists(self.record.with_suffix(".lock"))
        before = _lstat(self.record)
        with locked(self.record.with_suffix(".lock"), timeout_s=self.lock_timeout_s, progress=progress):
            if begun:
                self._sweep()
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
        self, unpacked: Unpacked, *, name: str, how: LinkMode, limits: Limits, key: str, progress: Progress
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

    def distrust(self) -> None:
        """Let the record say that what stands is not what was delivered: the next delivery replaces it.

        Raises:
            TreeError: the file system refused.
        """
        if is_torn(self.record):
            return
        with translated(self.destination):
            record = RecordWriter(self.record, "", str(head(self.record).get("archive", "")), self._into)
            try:
                record.take(self._lines())
                record.close()
                record.commit(self.record)
            finally:
                record.discard()

    def drop(self) -> None:
        """Remove what this slot put there, wherever that was, and its record; hold the lock of the records meanwhile.

        Raises:
            OSError: the file system refused; the next one goes on.
        """
        stood = self._stood()
        stood._recover()
        with contextlib.suppress(FileNotFoundError):
            self.record.replace(stood._moving)
        stood._recover()

    def forget(self) -> None:
        """Let the record name nothing: what it named is about to go with the whole directory.

        Raises:
            OSError: the file system refused.
        """
        record = RecordWriter(self.record, "", "", self._into)
        try:
            record.close()
            record.commit(self.record)
        finally:
            record.discard()
        self._moving.unlink(missing_ok=True)

    def _fill(self, fill: Callable[[TreeWriter], None], name: str, key: str, progress: Progress, copies: int) -> None:
        made = self.destination.with_name(f"{self._staging}{secrets.token_hex(6)}.part")
        with translated(self.destination):
            self.record.parent.mkdir(parents=True, exist_ok=True)
            staging.make(made)
            record = RecordWriter(self.record, key, name, self._into)
            try:
                with TreeWriter(made, record, progress, copies) as writer:
                    fill(writer)
                    writer.finish()
                record.close()
                staging.open_up(made)
                self._publish(made, record, name, progress)
            except BaseException:
                remove_tree(made)
                self._leave()
                raise
            finally:
                try:
                    record.discard()
                finally:
                    remove_tree(made)

    def _publish(self, made: Path, record: RecordWriter, name: str, progress: Progress) -> None:
        with locked(self.record.parent / ".lock", timeout_s=self.lock_timeout_s, progress=progress):
            self._recover()
            self._presume(record)
            stood = self._stood()
            status = _lstat(self.destination)
            if status is not None and not stat.S_ISDIR(status.st_mode):
                raise TreeError(f"{self.destination} is no directory", hint="remove what stands there, and run again")
            if status is not None:
                if status.st_dev != made.lstat().st_dev:
                    raise TreeError(
                        f"{self.destination} is on another file system than its parent",
                        hint="mount the parent directory instead",
                    )
                # judged before anything goes: a collision leaves what stood
                own = frozenset(stood._below(self.destination))
                self._make_way(record, own, name)
            if status is not None or stood is not self:
                stood.clear()
            record.commit(self._moving)
            try:
                self._move(made, name)
                remove_tree(made)  # before the record stands: what cannot go is swept by the next delivery
            except BaseException:
                self._recover()
                raise
            self._moving.replace(self.record)

    def _make_way(self, coming: RecordWriter, own: frozenset[str], name: str) -> None:
        """Judge whether what comes has room; an earlier version of a neighbour that is yet to be replaced gives way."""

        def judge() -> None:
            new_paths(self.destination, lines(coming.path), own, lambda path: self._clash(name, path))

        try:
            judge()
        except TreeError:
            wanted = dict(self.beside)
            earlier = [one for one in self._others() if one.key() != wanted.get(one.record.stem, one.key())]
            if not earlier:
                raise
            for one in earlier:
                one.clear()
            judge()

    def _move(self, made: Path, name: str) -> None:
        if not os.path.lexists(self.destination):
            try:
                made.rename(self.destination)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise  # else another slot just began below the place where this one goes
        # what is new goes beside what others put there
        new = new_paths(self.destination, lines(self._moving), frozenset(), lambda path: self._clash(name, path))
        with Descent(made) as here, Descent(self.destination) as there:
            for path in new:
                directory, _, last = os.fsencode(path).rpartition(b"/")
                os.rename(last, last, src_dir_fd=here.enter(directory), dst_dir_fd=there.enter(directory))

    @property
    def _into(self) -> str:
        return os.path.relpath(self.destination, self.record.parent)

    def _stood(self) -> Slot:
        """Return this slot where its record says that it put what it holds; earlier records did not say it.

        A place that is not beside the directory of the records was never asked for, and is nobody's to clear.
        """
        into = os.path.normpath(str(head(self.record).get("into") or head(self._moving).get("into") or self._into))
        beside = into.startswith("../") and not into.startswith("../..")
        if not beside or into == self._into:
            return self
        return self._replace(destination=Path(os.path.normpath(self.record.parent / into)))

    @property
    def _moving(self) -> Path:
        """Where the record stands while its entries come or go: what a kill leaves there is cleared up by the next."""
        return self.record.with_suffix(".moving")

    @property
    def _staging(self) -> str:
        return f".{self.destination.name[:60]}.{self.record.stem[:100]}."

    def _presume(self, coming: RecordWriter) -> None:
        """Where the record of what stands is torn, take it that it named what is coming: nobody else knows."""
        if not any(os.path.lexists(one) and is_torn(one) for one in (self.record, self._moving)):
            return
        guess = RecordWriter(self.record, "", "", self._into)
        try:
            guess.take(lines(coming.path))
            guess.close()
            guess.commit(self._moving)
        finally:
            guess.discard()
        self.record.unlink(missing_ok=True)
        self._recover()

    def _recover(self) -> None:
        """Remove what a delivery or a removal that was killed left behind, but for what others own by now."""
        if not os.path.lexists(self._moving):
            return
        others: set[str] = set()
        for other in self._others():
            others.update(other._below(self.destination))
        self._unmake(frozenset(others))

    def _others(self) -> Iterator[Slot]:
        """Yield the other slots that have records beside this one's, each where it put what it holds."""
        for record in self.record.parent.glob("*.json"):
            if record != self.record:
                yield Slot(self.destination, record)._stood()

    def _below(self, directory: Path) -> Iterator[str]:
        """Yield the paths, as counted from `directory`, of what this slot put there, as far as its record can be read.

        A record counts from its own destination, which may lie in another one's.
        """
        above = f"{directory}/"
        places = itertools.chain(
            map(str, (self.destination, *self.destination.parents)),
            (f"{self.destination}/{line.path}" for line in lines(self.record)),
        )
        with contextlib.suppress(ValueError, TypeError):
            for place in places:
                if place.startswith(above):
                    yield place[len(above) :]

    def _unmake(self, others: frozenset[str]) -> None:
        """Remove the entries that the moving record names, but for those of others, then itself."""
        try:
            remove_entries(self.destination, (line for line in lines(self._moving) if line.path not in others))
        except (ValueError, TypeError):
            return  # it is torn, and says so to the next delivery
        except (FileNotFoundError, NotADirectoryError):
            pass
        self._leave()
        self._moving.unlink(missing_ok=True)

    def _leave(self) -> None:
        """Remove the destination, and the directories on the way to it, as far as nothing is in them.

        Left empty, they would be in the way of an archive that has a file of that name.
        """
        top = self.record.parent.parent
        for place in (self.destination, *self.destination.parents):
            if top not in place.parents:
                return
            try:
                place.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return

    def _sweep(self) -> None:
        """Remove what killed deliveries of this slot left half-written; nobody else works on it now."""
        for directory, name in (
            (self.destination.parent, re.escape(self._staging) + r"[0-9a-f]{12}\.part"),
            (self.record.parent, re.escape(f".{self.record.name}.") + "[0-9a-f]{8}"),
        ):
            staging.sweep(directory, name)

    def _clash(self, name: str, path: str) -> TreeError:
        owner = self._owner_of(path)
        return TreeError(
            f"{escaped(name)} and {owner or 'something else'} both put {escaped(path)!r} into {self.destination}",
            hint=f"{'give one of them' if owner else 'remove what stands there, or give it'} a `dest:` of its own",
        )

    def _owner_of(self, path: str) -> str:
        for other in self._others():
            if path in other._below(self.destination):
                return escaped(str(head(other.record).get("archive", "")))
        return ""

    def _lines(self) -> list[Line]:
        """Return what this slot put there; nothing when the record is not whole."""
        try:
            return list(lines(self.record))
        except (ValueError, TypeError):
            return []

    def key(self) -> str:
        """Return the key of what stands here, "" for nothing."""
        return str(head(self.record).get("key", ""))

    def holds(self, key: str) -> bool:
        """Whether this key's entries all still stand: by kind, size and time, without reading content.

        A record is written after all that it names: a file that was written later was written by someone else.
        """
        if self.key() != key:
            return False
        try:
            written_ns = self.record.stat().st_mtime_ns
            return all_stand(self.destination, lines(self.record), written_ns)
        except (OSError, ValueError, TypeError):
            return False

    def paths(self) -> Iterator[Path]:
        """Yield every path that this slot put there; nothing when its record is not whole."""
        for line in self._lines():
            yield self.destination / line.path

    def clear(self) -> None:
        """Remove what this slot put there, directories only when nothing else is in them; then the record.

        Raises:
            TreeError: the file system refused.
        """
        with translated(self.destination):
            self._recover()
            with contextlib.suppress(FileNotFoundError):
                self.record.replace(self._moving)
            self._unmake(frozenset())


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
