"""Extracted directories: written here and nowhere else, completely or not at all.

Entries go into a private staging directory beside the destination, component by component through directory
descriptors that follow nothing; symlinks come last; only a whole, judged tree is renamed into place. What stands where
is recorded outside of the tree, so that no archive can forge it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from tasks_lib.archive import Entry, Limits, Reshape, read
from tasks_lib.errors import TreeError, escaped
from tasks_lib.progress import Progress

#: Raise when the same archive may give another tree.
TREE_VERSION: Final = 1
_CHUNK: Final = 1 << 20
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Made:
    """One line of a manifest; `digest` is of a file's content, or the text of a symlink in hex."""

    path: str
    kind: str
    executable: int
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Slot:
    """One archive's (or file's) place: a directory that it may share, and a record of its own beside it."""

    destination: Path
    record: Path

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

        def fill(writer: _Writer) -> None:
            def sink(entry: Entry) -> None:
                writer.add(entry)
                progress.check()

            read(source, name=name, format=format, reshape=reshape, limits=limits, sink=sink)

        self._fill(fill, name, key, progress)

    def place(self, source: BinaryIO, *, file_name: str, key: str, progress: Progress) -> None:
        """Put one plain file into the destination, replacing what this slot held; ELF files become executable.

        Raises:
            TreeError, CancelledError: as `extract`.
        """

        def fill(writer: _Writer) -> None:
            start = source.read(4)
            source.seek(0)
            chunks = iter(lambda: source.read(_CHUNK), b"")
            runs = int(start == b"\x7fELF" or start.startswith(b"#!"))
            writer.add(
                Entry(
                    path=os.fsencode(file_name),
                    kind="file",
                    executable=runs,
                    size=source.seek(0, 2),
                    chunks=lambda: _from_start(source, chunks),
                )
            )

        self._fill(fill, file_name, key, progress)

    def _fill(self, fill: Callable[[_Writer], None], name: str, key: str, progress: Progress) -> None:
        staging = self.destination.with_name(f".{self.destination.name}.{secrets.token_hex(6)}.part")
        with _translated(self.destination):
            self.destination.parent.mkdir(parents=True, exist_ok=True)
            staging.mkdir(mode=0o700)
            try:
                with _Writer(staging, progress) as writer:
                    fill(writer)
                    writer.finish()
                staging.chmod(0o777 & ~_umask())
                self._publish(staging, sorted(writer.made, key=lambda one: one.path), name, key)
            finally:
                _remove_tree(staging)

    def _publish(self, staging: Path, made: list[_Made], name: str, key: str) -> None:
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.record.parent / ".lock"):
            # judged before anything goes: a collision leaves what stood here
            own = [line[0] for line in _loaded(self.record).get("entries", []) if line[1] != "directory"]
            self._new_paths(made, name, frozenset(own))
            self.clear()
            if not os.path.lexists(self.destination):
                staging.rename(self.destination)
            else:
                self._merge(staging, made, name)
            record = {"key": key, "archive": name, "entries": [_line(one) for one in made]}
            aside = self.record.with_name(f".{self.record.name}.{secrets.token_hex(4)}")
            aside.write_text(json.dumps(record), "ascii")
            aside.replace(self.record)

    def _merge(self, staging: Path, made: list[_Made], name: str) -> None:
        """Move what is new beside what others put there; nothing moves when one path is taken."""
        for path in self._new_paths(made, name, frozenset()):
            (staging / path).rename(self.destination / path)

    def _new_paths(self, made: list[_Made], name: str, own: frozenset[str]) -> list[str]:
        """Return the topmost paths that nobody has put there yet; those of `own` are about to go."""
        new: list[str] = []
        for one in made:
            if new and one.path.startswith(new[-1] + "/"):
                continue
            status = None if one.path in own else _lstat(self.destination / one.path)
            if status is None:
                new.append(one.path)
            elif not (stat.S_ISDIR(status.st_mode) and one.kind == "directory"):
                both = f"{escaped(name)} and {self._owner_of(one.path)}"
                raise TreeError(
                    f"{both} both put {escaped(one.path)!r} into {self.destination}",
                    hint="give one of them a `dest:` of its own",
                )
        return new

    def _owner_of(self, path: str) -> str:
        for record in self.record.parent.glob("*.json"):
            found = _loaded(record)
            if record != self.record and any(line[0] == path for line in found.get("entries", ())):
                return escaped(str(found.get("archive", "")))
        return "something else"

    def key(self) -> str:
        """Return the key of what stands here, "" for nothing."""
        return str(_loaded(self.record).get("key", ""))

    def holds(self, key: str) -> bool:
        """Whether this key's entries all still stand: by kind and size, without reading content."""
        found = _loaded(self.record)
        if found.get("key") != key:
            return False
        return all(_stands(self.destination / line[0], line) for line in found["entries"])

    def clear(self) -> None:
        """Remove what this slot put there, directories only when nothing else is in them; then the record.

        Raises:
            TreeError: the file system refused.
        """
        with _translated(self.destination):
            for line in reversed(_loaded(self.record).get("entries", [])):
                _remove_entry(self.destination, line)
            with contextlib.suppress(OSError):
                self.destination.rmdir()
            self.record.unlink(missing_ok=True)


class _Writer:
    """Writes entries below one fresh directory, through descriptors of directories, following nothing."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self._root = os.open(root, _OPEN_DIRECTORY)
        self._open: list[tuple[bytes, int]] = []  # directories on the way to the last entry
        self._links: list[Entry] = []
        self._progress = progress
        self.made: list[_Made] = []
        self._files: dict[bytes, _Made] = {}  # what a later hard link may point to

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.pop()[1])
        os.close(self._root)

    def add(self, entry: Entry) -> None:
        """Write one entry; a symlink only later."""
        directory, _, name = entry.path.rpartition(b"/")
        if entry.kind == "symlink":
            self._links.append(entry)
        elif entry.kind == "directory":
            self._enter(entry.path)
        elif entry.kind == "hardlink":
            self._link(entry, self._enter(directory), name)
        else:
            self._write(entry, self._enter(directory), name)

    def finish(self) -> None:
        """Make the symlinks, now that nothing is written any more."""
        for entry in self._links:
            directory, _, name = entry.path.rpartition(b"/")
            os.symlink(entry.target, name, dir_fd=self._enter(directory))
            self._note(entry, entry.target.hex())

    def _note(self, entry: Entry, digest: str) -> None:
        one = _Made(os.fsdecode(entry.path), entry.kind, entry.executable, entry.size, digest)
        self.made.append(one)
        if entry.kind == "file":
            self._files[entry.path] = one

    def _enter(self, path: bytes) -> int:
        """Return the descriptor of a directory, made when missing; those on the way stay open."""
        parts = path.split(b"/") if path else []
        shared = 0
        while shared < min(len(parts), len(self._open)) and self._open[shared][0] == parts[shared]:
            shared += 1
        while len(self._open) > shared:
            os.close(self._open.pop()[1])
        descriptor = self._open[-1][1] if self._open else self._root
        for at in range(shared, len(parts)):
            try:
                os.mkdir(parts[at], 0o777, dir_fd=descriptor)
            except FileExistsError:
                pass
            else:
                self.made.append(_Made(os.fsdecode(b"/".join(parts[: at + 1])), "directory", 0, 0, ""))
            descriptor = os.open(parts[at], _OPEN_DIRECTORY, dir_fd=descriptor)
            self._open.append((parts[at], descriptor))
        return descriptor

    def _write(self, entry: Entry, directory: int, name: bytes) -> None:
        descriptor = os.open(name, _CREATE, 0o777 if entry.executable else 0o666, dir_fd=directory)
        digest = hashlib.sha256()
        try:
            for chunk in entry.chunks():
                digest.update(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(descriptor, view) :]
                self._progress.advance(len(chunk))
        finally:
            os.close(descriptor)
        self._note(entry, digest.hexdigest())

    def _link(self, entry: Entry, directory: int, name: bytes) -> None:
        target = self._files[entry.target]
        os.link(entry.target, name, src_dir_fd=self._root, dst_dir_fd=directory, follow_symlinks=False)
        one = replace(target, path=os.fsdecode(entry.path))
        self.made.append(one)
        self._files[entry.path] = one


def _from_start(source: BinaryIO, chunks: Iterator[bytes]) -> Iterator[bytes]:
    source.seek(0)
    return chunks


def _line(one: _Made) -> list[Any]:
    return [one.path, one.kind, one.executable, one.size, one.digest]


def _loaded(record: Path) -> dict[str, Any]:
    """Return a record, {} when there is none that can be read."""
    try:
        found = json.loads(record.read_text("ascii"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("entries"), list) else {}


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stands(path: Path, line: list[Any]) -> bool:
    status = _lstat(path)
    if status is None:
        return False
    kind = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}[line[1]]
    return stat.S_IFMT(status.st_mode) == kind and (kind != stat.S_IFREG or status.st_size == line[3])


def _remove_entry(root: Path, line: list[Any]) -> None:
    """Remove one recorded entry without following a symlink that stands in the way now."""
    *directories, name = os.fsencode(line[0]).split(b"/")
    opened: list[int] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), contextlib.ExitStack() as stack:
        opened.append(os.open(root, _OPEN_DIRECTORY))
        stack.callback(os.close, opened[-1])
        for part in directories:
            try:
                opened.append(os.open(part, _OPEN_DIRECTORY, dir_fd=opened[-1]))
            except OSError:
                return
            stack.callback(os.close, opened[-1])
        if line[1] == "directory":
            with contextlib.suppress(OSError):  # something of others is in it
                os.rmdir(name, dir_fd=opened[-1])
        else:
            with contextlib.suppress(IsADirectoryError, PermissionError):
                os.unlink(name, dir_fd=opened[-1])


def _remove_tree(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path, ignore_errors=True)


def _umask() -> int:
    """Return the umask without changing it, which would be seen by other threads. Source: proc(5), Linux 4.7."""
    with contextlib.suppress(OSError), Path("/proc/self/status").open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = escaped(str(error.filename)) if error.filename is not None else str(destination)
        raise TreeError(
            f"cannot write {destination}: {place}: {error.strerror or error}", hint="check space and permissions"
        ) from error
