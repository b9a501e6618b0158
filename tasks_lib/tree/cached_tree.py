"""Cached trees: extracted archives in the cache, which can be copied or linked many times without decoding.

`tree/` contains the entries, with files of mode 0444 or 0555. `list` records the state of each file when it was
written: inode, size, mtime and mode. A hard link to a cached file is the same file, so changing it in place changes the
cache. Therefore a file is linked or copied only if its status still matches, except for fields that links change
(`Fingerprint.link_stable`). A change that preserves even the mtime is found by `verify`, which reads the archive again.
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
from tasks_lib.errors import CacheError, escape_text
from tasks_lib.fs.copying import LinkMode, link_or_copy_name
from tasks_lib.fs.directories import DirectoryChain
from tasks_lib.fs.fingerprint import RACY_NS, Fingerprint
from tasks_lib.progress import Progress
from tasks_lib.tree.compare import Comparison
from tasks_lib.tree.manifest import ManifestEntry, ManifestWriter, read_manifest
from tasks_lib.tree.writer import TreeWriter

#: A hard link keeps these modes: only root can write to such a file by accident.
_MODES: Final = (0o444, 0o555)
_Put = Callable[[bytes, int, int], None]
_Sink = Callable[[Entry], None]
_Repeats = Callable[[Entry], bool]


class DamagedTreeError(CacheError):
    """A cached tree was changed; `path` is the changed file in it, "" for its list."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class _CachedEntry(NamedTuple):
    """A line of the list: the fields of `ManifestEntry`, then the identity of the file."""

    path: str
    kind: str
    executable: int
    size: int
    target: str
    inode: int
    mtime_ns: int
    mode: int


def write_cached_tree(
    directory: Path,
    fill: Callable[[TreeWriter], None],
    facts: Mapping[str, Any],
    *,
    copies: int,
    progress: Progress,
) -> None:
    """Write a cached tree into an empty directory.

    Args:
        directory: becomes the cached tree.
        fill: passes every entry to the writer.
        facts: describes the source of the tree; stored in the list.
        copies: bytes that may be written as copies where hard links are not supported.
        progress: receives the number of bytes written.

    Raises:
        OSError: a file system operation failed.
        CancelledError: the run was asked to stop.
        Exception: any exception raised by `fill`.
    """
    root = directory / "tree"
    root.mkdir(mode=0o755)
    record = ManifestWriter(directory / "record", "", "")
    try:
        with TreeWriter(root, record, progress, copies, _MODES) as writer:
            fill(writer)
            writer.finish()
        record.close()
        _write_list(directory, read_manifest(record.path), facts)
    finally:
        record.discard()
    time.sleep(RACY_NS / 1e9)  # a later write gets a different mtime


def _write_list(directory: Path, made: Iterator[ManifestEntry], facts: Mapping[str, Any]) -> None:
    digest = hashlib.sha256()
    descriptor = os.open(directory / "list", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with os.fdopen(descriptor, "wb") as file, DirectoryChain(directory / "tree") as chain:

        def put(value: object) -> None:
            text = json.dumps(value).encode("ascii") + b"\n"
            digest.update(text)
            file.write(text)

        put({**facts, "directory": directory.stat().st_ino})
        for entry in made:
            identity = (0, 0, 0)
            if entry.kind == "file":
                parent, _, name = os.fsencode(entry.path).rpartition(b"/")
                status = os.stat(name, dir_fd=chain.enter(parent), follow_symlinks=False)
                inode, _, mtime_ns, mode = _identity(status)
                identity = (inode, mtime_ns, mode)
            put([*entry, *identity])
        put(digest.hexdigest())


class CachedTree:
    """The cached tree in `directory`; the caller holds its lease."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "tree"

    def facts(self) -> dict[str, Any]:
        """Return the description of the tree's source.

        Raises:
            DamagedTreeError: the list cannot be read.
        """
        try:
            with (self.directory / "list").open("rb") as file:
                return dict(json.loads(file.readline()))
        except (OSError, ValueError, TypeError) as error:
            raise DamagedTreeError("its list cannot be read") from error

    def is_copy(self) -> bool:
        """Return whether the whole cache was copied: inodes then differ from the list, but nothing is damaged.

        Raises:
            DamagedTreeError: the list cannot be read.
        """
        try:
            return bool(self.facts().get("directory") != self.directory.stat().st_ino)
        except OSError as error:
            raise DamagedTreeError("it does not exist") from error

    def lay(self, writer: TreeWriter, how: LinkMode) -> None:
        """Create every entry below the writer's root: files as clones, as links if requested, or as copies.

        Raises:
            DamagedTreeError: the cached tree was changed; the caller removes the entries written so far.
            OSError, CancelledError: see `TreeWriter.add`.
        """
        if self.is_copy():
            raise DamagedTreeError("it was copied from another place")
        with DirectoryChain(self.root) as there:
            for row in self._rows():
                path = os.fsencode(row.path)
                if row.kind == "file":
                    writer.take(path, row.executable, row.size, self._put(there, row, how))
                else:
                    target = bytes.fromhex(row.target) if row.kind == "symlink" else os.fsencode(row.target)
                    writer.add(Entry(path=path, kind=row.kind, target=target))

    def compare(self, read: Callable[[_Sink, _Repeats], None], progress: Progress) -> dict[str, str]:
        """Compare the tree with its archive; return a mapping from path to the reason why it differs.

        Args:
            read: passes every entry of the archive to its arguments, as `archive.read` does.
            progress: receives the number of bytes compared.

        Raises:
            CancelledError: the run was asked to stop.
            Exception: any exception raised by `read`.
        """
        comparison = Comparison(self.root, progress)
        read(comparison.add, comparison.repeats)
        return comparison.differences

    def is_touched(self) -> bool:
        """Return whether a file's identity, times or mode differ from the list.

        Raises:
            DamagedTreeError: the list was changed.
        """
        touched = False
        with DirectoryChain(self.root) as there:
            for row in self._rows():
                touched = touched or (row.kind == "file" and _current_identity(there, row) != _recorded_identity(row))
        return touched

    def _rows(self) -> Iterator[_CachedEntry]:
        """Yield the lines of the list; its digest is verified at the end.

        Raises:
            DamagedTreeError: the list cannot be read or was changed.
        """
        digest = hashlib.sha256()
        try:
            with (self.directory / "list").open("rb") as file:
                digest.update(file.readline())
                for text in file:
                    value = json.loads(text)
                    if isinstance(value, str):
                        if value != digest.hexdigest():
                            break
                        return
                    digest.update(text)
                    yield _CachedEntry(*value)
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise DamagedTreeError("its list cannot be read") from error
        raise DamagedTreeError("its list was changed")

    def _put(self, there: DirectoryChain, row: _CachedEntry, how: LinkMode) -> _Put:
        def put(name: bytes, directory: int, mode: int) -> None:
            try:
                source = there.enter(os.fsencode(row.path).rpartition(b"/")[0])
                status = link_or_copy_name(name, source, directory, mode=mode, how=how)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise DamagedTreeError(f"{escape_text(row.path)} is missing", path=row.path) from error
            if _identity(status) != _recorded_identity(row):
                raise DamagedTreeError(f"{escape_text(row.path)} was changed", path=row.path)

        return put


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return (*Fingerprint.of(status).link_stable, status.st_mode)


def _recorded_identity(row: _CachedEntry) -> tuple[int, int, int, int]:
    return (row.inode, row.size, row.mtime_ns, row.mode)


def _current_identity(there: DirectoryChain, row: _CachedEntry) -> tuple[int, int, int, int]:
    parent, _, name = os.fsencode(row.path).rpartition(b"/")
    try:
        return _identity(os.stat(name, dir_fd=there.enter(parent), follow_symlinks=False))
    except OSError:
        return (0, 0, 0, 0)
