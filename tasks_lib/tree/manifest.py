"""What stands where: one line of JSON per entry, written as the tree grows, read line by line.

The first line says which archive and which key, the last one that the record is whole. A million entries never stand
in memory at once, and no archive can forge a record, since none lies inside a tree.
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

from tasks_lib.fs.dirfd import DirectoryChain
from tasks_lib.fs.fingerprint import predates

_KINDS: Final = {
    "file": stat.S_IFREG, "hardlink": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK,
}  # fmt: skip


def all_stand(root: Path, made: Iterable[ManifestEntry], written_ns: int) -> bool:
    """Whether every entry stands below `root`: by kind, size and time, without reading content.

    What was written later than `written_ns`, when the record was complete, was written by someone else.

    Raises:
        OSError: `root` cannot be opened.
        ValueError, TypeError: the record is not whole.
    """
    with DirectoryChain(root) as descent:
        return all(_stands(descent, line, written_ns) for line in made)


def new_paths(
    root: Path, made: Iterable[ManifestEntry], own: frozenset[str], clash: Callable[[str], Exception]
) -> list[str]:
    """Return the topmost paths that nobody has put below `root` yet.

    Args:
        root: the directory.
        made: what comes, parents first.
        own: paths that are about to go.
        clash: gives the error for a path at which something else stands.

    Raises:
        OSError: `root` cannot be opened.
        what `clash` gives.
    """
    new: list[str] = []
    shared = {""}  # directories that both have
    with DirectoryChain(root) as descent:
        for one in made:
            if one.path.rpartition("/")[0] not in shared:
                continue  # comes with a directory that is new
            status = _found(descent, one.path)
            if status is not None and stat.S_ISDIR(status.st_mode) and one.kind == "directory":
                shared.add(one.path)
            elif status is None or one.path in own:
                new.append(one.path)
            else:
                raise clash(one.path)
    return new


def remove_entries(root: Path, made: Iterable[ManifestEntry]) -> None:
    """Remove entries below `root`, directories only when nothing else is in them.

    Raises:
        OSError: `root` cannot be opened, or is read-only.
        ValueError, TypeError: the record is not whole; directories stay then.
    """
    directories = []
    with DirectoryChain(root) as descent:
        for line in made:
            if line.kind == "directory":
                directories.append(line.path)
            else:
                _drop(descent, line.path, os.unlink)
        for path in reversed(directories):
            _drop(descent, path, os.rmdir)


def _found(descent: DirectoryChain, path: str) -> os.stat_result | None:
    directory, _, name = os.fsencode(path).rpartition(b"/")
    try:
        return os.stat(name, dir_fd=descent.enter(directory), follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stands(descent: DirectoryChain, line: ManifestEntry, written_ns: int) -> bool:
    status = _found(descent, line.path)
    if status is None or stat.S_IFMT(status.st_mode) != _KINDS.get(line.kind):
        return False
    if line.kind == "directory":
        return True  # what others put into it is theirs
    return predates(status, written_ns) and (line.kind != "file" or status.st_size == line.size)


def _drop(descent: DirectoryChain, path: str, verb: Callable[..., None]) -> None:
    """Remove one recorded entry; something of others in it, or in its place, stays."""
    directory, _, name = os.fsencode(path).rpartition(b"/")
    try:
        verb(name, dir_fd=descent.enter(directory))
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EIO):
            raise


_END: Final = '"end"\n'
#: What os.fsdecode uses, without its look-ups for each of a million names.
_ENCODING: Final = sys.getfilesystemencoding()
#: Lines written at once.
_LINES: Final = 1000


class ManifestEntry(NamedTuple):
    """One entry; `target` is a symlink's text in hex, or the path that a hard link shares its content with.

    `size` is -1 where it says nothing. Content has no digest here: the archive that a tree came from has one, and
    hashing every file again costs a fifth of an extraction (docs/decisions/0003).
    """

    path: str
    kind: str
    executable: int
    size: int
    target: str


class ManifestWriter:
    """Writes a record aside, at `path`; `commit` moves it, `discard` removes it."""

    def __init__(self, path: Path, key: str, archive: str, into: str = "") -> None:
        self.path = path
        self._file = path.open("w", encoding="ascii", buffering=1 << 18)
        self._lines = [json.dumps({"key": key, "archive": archive, "into": into}) + "\n"]
        self._aside = True

    def add(self, path: bytes, kind: str, executable: int, size: int, target: bytes) -> None:
        """Add one entry, parents before what is in them."""
        text = quoted(str(path, _ENCODING, "surrogateescape"))
        if target:
            size = -1 if kind == "hardlink" else size
            line = f'[{text},"{kind}",{executable},{size},{_target(kind, target)}]\n'
        else:
            line = f'[{text},"{kind}",{executable},{size},""]\n'
        read_manifest = self._lines
        read_manifest.append(line)
        if len(read_manifest) >= _LINES:
            self._flush()

    def _flush(self) -> None:
        self._file.write("".join(self._lines))
        self._lines = []

    def take(self, kept: Iterable[ManifestEntry]) -> None:
        """Add the lines of another record."""
        self._lines += [json.dumps(line) + "\n" for line in kept]
        self._flush()

    def close(self) -> None:
        """Finish the lines; the record still stands aside, readable there."""
        self._lines.append(_END)
        self._flush()
        self._file.close()

    def commit(self, place: Path) -> None:
        """Let the record stand at `place`, atomically."""
        self.path.replace(place)
        self._aside = False

    def discard(self) -> None:
        """Remove what stands aside."""
        self._file.close()
        if self._aside:
            self.path.unlink(missing_ok=True)


def _target(kind: str, target: bytes) -> str:
    return quoted(target.hex() if kind == "symlink" else target.decode(_ENCODING, "surrogateescape"))


def head(record: Path) -> dict[str, Any]:
    """Return `key`, `archive` and `into`, the way from the record to the destination; {} when there is none, or torn.

    Raises:
        OSError: the record stands and cannot be read.
    """
    try:
        with record.open(encoding="ascii") as file:
            found = json.loads(file.readline())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_torn(record: Path) -> bool:
    """Whether a record stands that is not whole: records are not synced, and a power loss empties what is new.

    Raises:
        OSError: the record stands and cannot be read.
    """
    try:
        for _ in read_manifest(record):
            pass
    except (ValueError, TypeError):
        return True
    return False


def read_manifest(record: Path) -> Iterator[ManifestEntry]:
    """Yield the entries; nothing when there is no record.

    Raises:
        OSError: the record stands and cannot be read.
        ValueError: the record is not whole.
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
    raise ValueError(f"{record} ends too early")


def stems(records: Path, *suffixes: str) -> set[str]:
    """Return the names, without suffix, of the files in a directory of records that end in one of `suffixes`.

    Raises:
        OSError: the directory stands and cannot be listed.
    """
    try:
        names = os.listdir(records)  # noqa: PTH208 - a Path for each of thousands costs more than the call
    except FileNotFoundError:
        return set()
    return {stem for stem, suffix in map(os.path.splitext, names) if suffix in suffixes}
