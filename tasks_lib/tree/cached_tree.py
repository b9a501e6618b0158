"""Unpacked trees: what an archive becomes in the cache, to be placed again and again without being decoded.

`tree/` holds the entries, its files 0444 or 0555; `list` says what each file was when it was written: inode, size, time
of modification, mode. A placed hard link is another name of that same file, so that whoever changes it in place changes
the file here: nothing is placed whose status differs, as far as links leave it alone (`Fingerprint.link_stable`). What
keeps even its time is found by `verify`, which reads the archive again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tasks_lib.archive import Entry
from tasks_lib.errors import CacheError, escaped
from tasks_lib.fs.copying import LinkMode, place_named
from tasks_lib.fs.dirfd import DirectoryChain
from tasks_lib.fs.fingerprint import RACY_NS, Fingerprint
from tasks_lib.progress import Progress
from tasks_lib.tree.compare import Comparison
from tasks_lib.tree.manifest import ManifestEntry, ManifestWriter, read_manifest
from tasks_lib.tree.writer import TreeWriter

#: Raise when the list or the files of an unpacked tree become others.
UNPACKED_VERSION: Final = 1
#: A link keeps its mode: nobody but root writes such a file without meaning to.
_MODES: Final = (0o444, 0o555)
_Put = Callable[[bytes, int, int], None]


class DamagedTreeError(CacheError):
    """An unpacked tree is not what it was; `path` is the file in it that shows it, "" for its list."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class _CachedEntry(NamedTuple):
    """A line of the list: as in a record, then what identifies a file."""

    path: str
    kind: str
    executable: int
    size: int
    target: str
    inode: int
    mtime_ns: int
    mode: int


def unpack(
    directory: Path,
    fill: Callable[[TreeWriter], None],
    facts: Mapping[str, Any],
    *,
    copies: int,
    progress: Progress,
) -> None:
    """Write an unpacked tree into an empty directory.

    Args:
        directory: becomes the unpacked tree.
        fill: gives every entry to the writer.
        facts: what the tree was made of, kept in the list.
        copies: bytes that may be written as copies where there are no hard links.
        progress: told of every byte.

    Raises:
        OSError: the file system refused.
        CancelledError: the run was asked to stop.
        whatever `fill` raises.
    """
    root = directory / "tree"
    root.mkdir(mode=0o755)
    record = ManifestWriter(directory / "record", "", "")
    try:
        with TreeWriter(root, record, progress, copies, _MODES) as writer:
            fill(writer)
            writer.finish()
        record.close()
        _list(directory, read_manifest(record.path), facts)
    finally:
        record.discard()
    time.sleep(RACY_NS / 1e9)  # a later write has another time


def _list(directory: Path, made: Iterator[ManifestEntry], facts: Mapping[str, Any]) -> None:
    digest = hashlib.sha256()
    descriptor = os.open(directory / "list", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with os.fdopen(descriptor, "wb") as file, DirectoryChain(directory / "tree") as descent:

        def put(value: object) -> None:
            text = json.dumps(value).encode("ascii") + b"\n"
            digest.update(text)
            file.write(text)

        put({**facts, "directory": directory.stat().st_ino})
        for line in made:
            identity = (0, 0, 0)
            if line.kind == "file":
                above, _, name = os.fsencode(line.path).rpartition(b"/")
                status = os.stat(name, dir_fd=descent.enter(above), follow_symlinks=False)
                inode, _, mtime_ns, mode = _identity(status)
                identity = (inode, mtime_ns, mode)
            put([*line, *identity])
        put(digest.hexdigest())


class CachedTree:
    """The unpacked tree in `directory`; hold its lease."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "tree"

    def facts(self) -> dict[str, Any]:
        """Return what it was made of.

        Raises:
            DamagedTreeError: its list cannot be read.
        """
        try:
            with (self.directory / "list").open("rb") as file:
                return dict(json.loads(file.readline()))
        except (OSError, ValueError, TypeError) as error:
            raise DamagedTreeError("its list cannot be read") from error

    def is_copy(self) -> bool:
        """Whether a whole cache was copied: then no file is the one that its list speaks of, and nothing is damaged.

        Raises:
            DamagedTreeError: its list cannot be read.
        """
        try:
            return bool(self.facts().get("directory") != self.directory.stat().st_ino)
        except OSError as error:
            raise DamagedTreeError("it is gone") from error

    def lay(self, writer: TreeWriter, how: LinkMode) -> None:
        """Put every entry below the writer's root: files as clones, or as links when asked, or as copies.

        Raises:
            DamagedTreeError: it is not what it was; what was written goes.
            OSError, CancelledError: as `TreeWriter.add`.
        """
        if self.is_copy():
            raise DamagedTreeError("it was copied from somewhere else")
        with DirectoryChain(self.root) as there:
            for row in self._rows():
                path = os.fsencode(row.path)
                if row.kind == "file":
                    writer.take(path, row.executable, row.size, self._put(there, row, how))
                else:
                    target = bytes.fromhex(row.target) if row.kind == "symlink" else os.fsencode(row.target)
                    writer.add(Entry(path=path, kind=row.kind, target=target))

    def compare(self, read: Callable[[Callable[[Entry], None]], None], progress: Progress) -> dict[str, str]:
        """Return path -> what is wrong there.

        Args:
            read: gives every entry of the archive to its argument.
            progress: told of every byte.

        Raises:
            CancelledError: the run was asked to stop.
            whatever `read` raises.
        """
        comparison = Comparison(self.root, progress)
        read(comparison.add)
        return comparison.differences

    def is_touched(self) -> bool:
        """Whether a file is another one, or has other times or another mode, than its list says.

        Raises:
            DamagedTreeError: the list is not what was written.
        """
        found = False
        with DirectoryChain(self.root) as there:
            for row in self._rows():
                found = found or (row.kind == "file" and _looked_at(there, row) != _of(row))
        return found

    def _rows(self) -> Iterator[_CachedEntry]:
        """Yield the lines of the list, at the end of which it is known whether they are right."""
        digest = hashlib.sha256()
        try:
            with (self.directory / "list").open("rb") as file:
                digest.update(file.readline())
                for text in file:
                    found = json.loads(text)
                    if isinstance(found, str):
                        if found != digest.hexdigest():
                            break
                        return
                    digest.update(text)
                    yield _CachedEntry(*found)
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise DamagedTreeError("its list cannot be read") from error
        raise DamagedTreeError("its list is not what was written")

    def _put(self, there: DirectoryChain, row: _CachedEntry, how: LinkMode) -> _Put:
        def put(name: bytes, directory: int, mode: int) -> None:
            try:
                source = there.enter(os.fsencode(row.path).rpartition(b"/")[0])
                status = place_named(name, source, directory, mode=mode, how=how)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise DamagedTreeError(f"{escaped(row.path)} is gone", path=row.path) from error
            if _identity(status) != _of(row):
                raise DamagedTreeError(f"{escaped(row.path)} was changed", path=row.path)

        return put


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return (*Fingerprint.of(status).link_stable, status.st_mode)


def _of(row: _CachedEntry) -> tuple[int, int, int, int]:
    return (row.inode, row.size, row.mtime_ns, row.mode)


def _looked_at(there: DirectoryChain, row: _CachedEntry) -> tuple[int, int, int, int]:
    above, _, name = os.fsencode(row.path).rpartition(b"/")
    try:
        return _identity(os.stat(name, dir_fd=there.enter(above), follow_symlinks=False))
    except OSError:
        return (0, 0, 0, 0)
