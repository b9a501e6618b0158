"""Manifests of trees: one line of JSON per entry, written while the tree is created and read line by line.

The first line names archive and key; the last one marks the manifest as complete. A manifest is never in memory as a
whole, even with a million entries. No archive can forge a manifest, because it is outside the tree.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any, Final, NamedTuple

from tasks_lib.archive import SmallFiles
from tasks_lib.fs.directories import DirectoryChain
from tasks_lib.fs.fingerprint import is_mtime_at_most

_KINDS: Final = {
    "file": stat.S_IFREG, "hardlink": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK,
}  # fmt: skip


def all_unchanged(root: Path, made: Iterable[ManifestEntry], written_ns: int) -> bool:
    """Return whether every entry exists below `root` with the same kind, size and time; content is not read.

    `written_ns` is the time at which the manifest was complete; a file with a later mtime was changed.

    Raises:
        OSError: `root` cannot be opened.
        ValueError, TypeError: the manifest is incomplete.
    """
    with DirectoryChain(root) as chain:
        return all(_is_unchanged(chain, line, written_ns) for line in made)


def find_new_paths(
    root: Path, made: Iterable[ManifestEntry], own: frozenset[str], clash: Callable[[str], Exception]
) -> list[str]:
    """Return the topmost paths that do not exist below `root` yet.

    Args:
        root: the directory.
        made: the new entries, parents first.
        own: paths that are about to be removed.
        clash: returns the error for a path that exists already.

    Raises:
        OSError: `root` cannot be opened.
        Exception: the exception that `clash` returns.
    """
    new: list[str] = []
    shared = {""}  # directories that are new entries and exist too
    with DirectoryChain(root) as chain:
        for one in made:
            if one.path.rpartition("/")[0] not in shared:
                continue  # part of a new directory
            status = _stat_entry(chain, one.path)
            if status is not None and stat.S_ISDIR(status.st_mode) and one.kind == "directory":
                shared.add(one.path)
            elif status is None or (one.path in own and _is_removed_with(own, chain, one.path, status)):
                new.append(one.path)
            else:
                raise clash(one.path)
    return new


def _is_removed_with(own: frozenset[str], chain: DirectoryChain, path: str, status: os.stat_result) -> bool:
    """Return whether `remove_entries` of the paths `own` removes what is at one of them: no directory with others."""
    waiting = [path] if stat.S_ISDIR(status.st_mode) else []
    while waiting:
        directory = waiting.pop()
        with os.scandir(chain.enter(os.fsencode(directory))) as entries:
            for entry in entries:
                inner = f"{directory}/{entry.name}"
                if inner not in own:
                    return False
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(inner)
    return True


def remove_entries(root: Path, made: Iterable[ManifestEntry]) -> None:
    """Remove entries below `root`, directories only if they are empty, whatever their kind is now.

    Raises:
        OSError: `root` cannot be opened, or is read-only.
        ValueError, TypeError: the manifest is incomplete; directories are not removed.
    """
    directories = []
    with DirectoryChain(root) as chain:
        for line in made:
            if line.kind == "directory" or not _drop(chain, line.path, os.unlink):
                directories.append(line.path)
        for path in reversed(directories):
            if not _drop(chain, path, os.rmdir):
                _drop(chain, path, os.unlink)


def _stat_entry(chain: DirectoryChain, path: str) -> os.stat_result | None:
    directory, _, name = os.fsencode(path).rpartition(b"/")
    try:
        return os.stat(name, dir_fd=chain.enter(directory), follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_unchanged(chain: DirectoryChain, line: ManifestEntry, written_ns: int) -> bool:
    status = _stat_entry(chain, line.path)
    if status is None or stat.S_IFMT(status.st_mode) != _KINDS.get(line.kind):
        return False
    if line.kind == "directory":
        return True  # other programs may add entries to it
    return is_mtime_at_most(status, written_ns) and (line.kind != "file" or status.st_size == line.size)


def _drop(chain: DirectoryChain, path: str, verb: Callable[..., None]) -> bool:
    """Remove one entry and return True; return False for an entry that `verb` does not remove."""
    directory, _, name = os.fsencode(path).rpartition(b"/")
    try:
        verb(name, dir_fd=chain.enter(directory))
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EIO):
            raise
        return False
    return True


_END: Final = '"end"\n'
#: The encoding that os.fsdecode uses, without its look-ups for each of a million names.
_ENCODING: Final = sys.getfilesystemencoding()
#: Number of lines per write.
_LINES: Final = 1000


class ManifestEntry(NamedTuple):
    """One entry; `target` is the text of a symlink in hex, or the target path of a hard link.

    `size` is -1 if it is unknown. There is no digest of the content: the source archive has one, and hashing every file
    again would take a fifth of the time of an extraction (docs/decisions/0003).
    """

    path: str
    kind: str
    executable: int
    size: int
    target: str


class ManifestWriter:
    """Writer of a manifest to the temporary path `path`; `commit` renames it, `discard` removes it."""

    def __init__(self, path: Path, key: str, archive: str, into: str = "") -> None:
        self.path = path
        self._file = path.open("w", encoding="ascii", buffering=1 << 18)
        self._lines = [json.dumps({"key": key, "archive": archive, "into": into}) + "\n"]
        self._aside = True

    def add(self, path: bytes, kind: str, executable: int, size: int, target: bytes) -> None:
        """Add one entry, parents first."""
        text = quoted(_text(path))
        if target:
            size = -1 if kind == "hardlink" else size
            line = f'[{text},"{kind}",{executable},{size},{_target(kind, target)}]\n'
        else:
            line = f'[{text},"{kind}",{executable},{size},""]\n'
        lines = self._lines
        lines.append(line)
        if len(lines) >= _LINES:
            self._flush()

    def add_files(self, group: SmallFiles) -> None:
        """Add files of one directory, whose entry was added before."""
        prefix = quoted(_text(group.directory) + "/")[:-1] if group.directory else '"'
        names = quoted(_text(b"\n".join([file[0] for file in group.files])))[1:-1].split("\\n")
        self._lines += [
            f'[{prefix}{name}","file",{executable},{size},""]\n'
            for name, (_, size, executable, _, _) in zip(names, group.files, strict=True)
        ]
        if len(self._lines) >= _LINES:
            self._flush()

    def _flush(self) -> None:
        self._file.write("".join(self._lines))
        self._lines = []

    def take(self, kept: Iterable[ManifestEntry]) -> None:
        """Add the entries of another manifest."""
        self._lines += [json.dumps(line) + "\n" for line in kept]
        self._flush()

    def close(self) -> None:
        """Write the end mark and close the file; the manifest can be read at `path`."""
        self._lines.append(_END)
        self._flush()
        self._file.close()

    def commit(self, place: Path) -> None:
        """Rename the manifest to `place`, atomically."""
        self.path.replace(place)
        self._aside = False

    def discard(self) -> None:
        """Close the file, and remove it unless `commit` was called."""
        self._file.close()
        if self._aside:
            self.path.unlink(missing_ok=True)


def _text(path: bytes) -> str:
    return str(path, _ENCODING, "surrogateescape")


def _target(kind: str, target: bytes) -> str:
    return quoted(target.hex() if kind == "symlink" else _text(target))


def read_manifest_header(record: Path) -> dict[str, Any]:
    """Return `key`, `archive` and `into`, the destination relative to the manifest's directory.

    Return {} if there is no manifest or its first line is invalid.

    Raises:
        OSError: the manifest exists but cannot be read.
    """
    try:
        with record.open(encoding="ascii") as file:
            header = json.loads(file.readline())
    except (FileNotFoundError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def is_incomplete(record: Path) -> bool:
    """Return whether a manifest exists but is incomplete: manifests are not synced, so a power loss can truncate them.

    Raises:
        OSError: the manifest exists but cannot be read.
    """
    try:
        for _ in read_manifest(record):
            pass
    except (ValueError, TypeError):
        return True
    return False


def read_manifest(record: Path) -> Iterator[ManifestEntry]:
    """Yield the entries; nothing if there is no manifest.

    Raises:
        OSError: the manifest exists but cannot be read.
        ValueError, TypeError: the manifest is incomplete.
    """
    try:
        file = record.open(encoding="ascii")
    except FileNotFoundError:
        return
    with file:
        file.readline()
        for text in file:
            if text == _END:
                return
            yield ManifestEntry(*json.loads(text))
    raise ValueError(f"{record} is truncated")


def list_stems(records: Path, *suffixes: str) -> set[str]:
    """Return the names, without suffix, of the files in a manifest directory that have one of `suffixes`.

    Raises:
        OSError: the directory exists but cannot be listed.
    """
    try:
        names = os.listdir(records)  # noqa: PTH208 - a Path for each of thousands costs more than the call
    except FileNotFoundError:
        return set()
    return {stem for stem, suffix in map(os.path.splitext, names) if suffix in suffixes}
