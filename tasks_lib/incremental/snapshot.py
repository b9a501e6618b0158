"""The snapshot shows that nothing changed since all tasks were checked, at the cost of one stat() call for each file.

For every task that was up to date it stores the files on which that result depends and their compact fingerprints,
taken *before* the check: inode and change time, which no ordinary program can set back. A task is trusted without a
check only while these, its definition, the settings, the code and doit's database are unchanged. The snapshot is only
a shorter way to an answer that doit would give; doit checks everything that it does not cover.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks_lib.fs.atomic import write_best_effort
from tasks_lib.fs.fingerprint import Fingerprint, compact_fingerprint, compact_fingerprints
from tasks_lib.fs.trust import NOBODY, Trust
from tasks_lib.incremental.fingerprints import RACY, read_directory_fingerprint, read_fingerprints
from tasks_lib.incremental.other_names import find_links, find_names, list_verified_names
from tasks_lib.named import NamedTuple

if TYPE_CHECKING:
    from tasks_lib.incremental.definition_cache import DefinitionCache

_MAGIC: Final = b"doit-fetch stamp 6\n"
#: The sizes of all parts of the file but the last.
_SIZES: Final = struct.Struct("7Q")
#: Bytes of names that are compared at a time, in memory that is used again.
_BATCH: Final = 1 << 15


class SnapshotRow(NamedTuple):
    """One task that is up to date: its dependencies, the files that prove it, and the fingerprints of those files.

    `note` says what is not confirmed about its output.
    """

    needs: tuple[str, ...]
    paths: tuple[str, ...]
    fingerprints: tuple[int, ...]
    note: str = ""


class SnapshotHead(NamedTuple):
    """The facts that must be unchanged for any row to be trusted."""

    code: str
    settings: str
    selection: str
    database: int


_Rows = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]


class Snapshot(NamedTuple):
    """A snapshot that was read; `open` lists the requested tasks that are not known to be up to date.

    Each text has names of files, separated by NUL; `fingerprints` are of `first`, `links`, `targets` and `others`, in
    this order. A symlink and the file to which it leads (the link to an artifact) are checked by one stat() of it.
    A file with two names (a blob and its artifact) is checked once: `others` are the second names and the directories,
    ordered by `directories`, which have these names. Such a name is valid while the names in its directory, and the
    file, are unchanged.
    """

    definition_cache: bytes
    source_fingerprints: dict[str, Fingerprint]
    open: list[str]
    directories: dict[str, list[int]]  # fingerprint, and number of others
    first: bytes
    links: bytes
    targets: bytes
    others: bytes
    fingerprints: array[int]
    names: list[str]  # of the tasks with rows
    notes: dict[str, str]  # of the rows that have one
    more: memoryview  # needed only when something changed

    @property
    def paths(self) -> list[str]:
        """The files, in the order of `fingerprints`."""
        return [path for text in (self.first, self.links, self.targets, self.others) for path in _words(text)]

    @property
    def linked(self) -> dict[str, str]:
        """The symlinks, each with the file to which it leads."""
        return dict(zip(_words(self.links), _words(self.targets), strict=True))

    def changed(self) -> list[int]:
        """Return the indexes of the files that changed."""
        found, at = self._changed(self.first, 0, _LSTAT)
        end = at + _count(self.links)
        found += self._changed_links(at, end - at)
        at = end + end - at
        changed = {self.fingerprints[one] for one in found}  # of files that may have second names
        for directory, (fingerprint, count) in self.directories.items():
            is_file_changed = changed and not changed.isdisjoint(self.fingerprints[at : at + count])
            if is_file_changed or read_directory_fingerprint(directory) != fingerprint or fingerprint == RACY:
                paths = self.paths
                found += [
                    one for one in range(at, at + count) if _read_fingerprint(paths[one]) != self.fingerprints[one]
                ]
            at += count
        return found

    def _changed(self, text: bytes, at: int, call: _StatCall) -> tuple[list[int], int]:
        """Return which of the names in a text changed, and the index behind the last one; `at` is that of the first."""
        found: list[int] = []
        for names in _batches(text):
            fingerprints = self.fingerprints[at : at + len(names)].tolist()
            found += [at + one for one in _find_different(names, fingerprints, call)]
            at += len(names)
        return found, at

    def _changed_links(self, start: int, count: int) -> list[int]:
        """Return which links do not lead to their files any more, and which of these files changed."""
        if not count:
            return []
        found = [one - count for one in self._changed(self.links, start + count, _STAT)[0]]
        targets = _words(self.targets) if found else []
        return found + [
            one + count for one in found if _read_fingerprint(targets[one - start]) != self.fingerprints[one + count]
        ]

    def digests(self) -> Sequence[dict[str, bytes]]:
        """Return the digests of the definitions of each kind when the snapshot was written."""
        return _unpacked(self.more)[0]

    def rows(self) -> dict[str, SnapshotRow]:
        """Return the rows by task name."""
        made, paths, fingerprints = _unpacked(self.more)[1], self.paths, self.fingerprints
        return {
            task: SnapshotRow(
                needs,
                tuple([paths[at] for at in places]),
                tuple([fingerprints[at] for at in places]),
                self.notes.get(task, ""),
            )
            for task, (needs, places) in made.items()
        }

    def touched(self, changed: Iterable[int]) -> set[str]:
        """Return the tasks that depend on any of these files."""
        places = frozenset(changed)
        return {task for task, (_, at) in _unpacked(self.more)[1].items() if not places.isdisjoint(at)}


def _batches(text: bytes) -> Iterator[list[bytes]]:
    """Yield the names in a text in batches."""
    at = 0
    while at < len(text):
        end = text.find(b"\0", at + _BATCH)
        end = end if end >= 0 else len(text)
        yield text[at:end].split(b"\0")
        at = end + 1


def _find_different(names: list[bytes], fingerprints: list[int], call: _StatCall) -> list[int]:
    """Return the indexes of the files that `call` shows with another fingerprint."""
    try:
        now = compact_fingerprints(map(call.stat, names))
    except OSError:  # a file is missing, perhaps as before: look at each
        now = [-1] * len(names)
    if now == fingerprints:
        return []
    differ = [at for at, (one, two) in enumerate(zip(now, fingerprints, strict=True)) if one != two]
    # a directory is among them: its fingerprint is its inode
    return [at for at in differ if call.read(os.fsdecode(names[at])) != fingerprints[at]]


def _read_fingerprint(path: str) -> int:
    return read_fingerprints([path])[0]


def _read_fingerprint_behind(link: str) -> int:
    try:
        return compact_fingerprint(os.stat(link))  # noqa: PTH116  # as text
    except OSError:
        return 0


class _StatCall(NamedTuple):
    """A system call, and the function that reads a fingerprint with it also of missing files and directories."""

    stat: Callable[[bytes], os.stat_result]
    read: Callable[[str], int]


_LSTAT: Final = _StatCall(os.lstat, _read_fingerprint)
_STAT: Final = _StatCall(os.stat, _read_fingerprint_behind)


def _unpacked(more: memoryview) -> tuple[list[dict[str, bytes]], _Rows]:
    found: tuple[list[dict[str, bytes]], _Rows] = _msgpack().decode(more, type=tuple[list[dict[str, bytes]], _Rows])
    return found


def _msgpack() -> Any:
    import msgspec  # slow to import, needed only when something changed

    return msgspec.msgpack


def inode_of(path: str) -> int:
    """Return the inode of doit's database, 0 when it is missing; with another database everything is forgotten."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116
    except OSError:
        return 0


def read(path: Path, head: SnapshotHead, trust: Trust = NOBODY) -> Snapshot | None:
    """Return the snapshot, None when it is missing, damaged, not of a trusted user, or does not match `head`."""
    content = trust.read(path)
    if content is None:
        return None
    data = memoryview(content)
    start = len(_MAGIC) + 32
    if bytes(data[: start - 32]) != _MAGIC or hashlib.sha256(data[start:]).digest() != data[start - 32 : start]:
        return None
    try:
        *parts, more = _cut(data[start:])
        known = json.loads(bytes(parts[0]))
        if SnapshotHead(*known["head"]) != head:
            return None
        return Snapshot(
            definition_cache=bytes.fromhex(known["library"]),
            source_fingerprints={name: Fingerprint(*mark) for name, mark in known["source_fingerprints"].items()},
            open=known["open"],
            directories=known["directories"],
            first=bytes(parts[2]),
            links=bytes(parts[3]),
            targets=bytes(parts[4]),
            others=bytes(parts[5]),
            fingerprints=array("Q", bytes(parts[1])),
            names=_words(bytes(parts[6])),
            notes=known["notes"],
            more=more,
        )
    except (ValueError, TypeError, KeyError, struct.error):
        return None


def _cut(body: memoryview) -> Iterator[memoryview]:
    """Yield the parts of a snapshot's body."""
    at = _SIZES.size
    for size in _SIZES.unpack_from(body):
        yield body[at : at + size]
        at += size
    yield body[at:]


def _words(text: bytes) -> list[str]:
    return os.fsdecode(text).split("\0") if text else []


def _count(text: bytes) -> int:
    return text.count(b"\0") + 1 if text else 0


def write(
    path: Path,
    head: SnapshotHead,
    definition_cache: DefinitionCache,
    digests: Sequence[Mapping[str, bytes]],
    rows: Mapping[str, SnapshotRow],
    wanted: Iterable[str],
    before: Snapshot | None = None,
) -> None:
    """Write a snapshot atomically; a failure is ignored, since the snapshot only saves time.

    Args:
        path: of the snapshot.
        head: the facts that must be unchanged for it to be trusted.
        definition_cache: the cache of parsed definitions.
        digests: of the definitions of each kind.
        rows: of the tasks that are up to date.
        wanted: names of all requested tasks.
        before: the snapshot that this one replaces.
    """
    fingerprints = _agreed(rows)
    seconds = find_names(fingerprints, list_verified_names(before) if before is not None else {})
    links = find_links([one for one in fingerprints if one not in seconds], fingerprints, before)
    checked = {*links, *links.values(), *seconds}
    alone = (one for one in fingerprints if one not in checked)
    first = sorted(alone, key=lambda one: fingerprints[one] == 0)  # missing ones last
    others = sorted(seconds, key=posixpath.dirname)
    texts = (first, links, links.values(), others)
    places = {one: at for at, one in enumerate(one for text in texts for one in text)}
    made: _Rows = {task: (row.needs, tuple([places[one] for one in row.paths])) for task, row in rows.items()}
    directories: dict[str, list[int]] = {}
    for one in others:
        directories.setdefault(posixpath.dirname(one), [seconds[one], 0])[1] += 1
    known = {
        "head": head,
        "open": [task for task in wanted if task not in rows],
        "library": definition_cache.identity.hex(),
        "source_fingerprints": dict(definition_cache.source_fingerprints),
        "directories": directories,
        "notes": {task: row.note for task, row in rows.items() if row.note},
    }
    parts = [json.dumps(known).encode(), array("Q", [fingerprints[one] for one in places]).tobytes()]
    parts += [os.fsencode("\0".join(text)) for text in (*texts, made)]
    rest: bytes = _msgpack().encode(([*map(dict, digests)], made))
    body = [_SIZES.pack(*map(len, parts)), *parts, rest]
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
    # other users of a shared cache read it: it holds names and paths, and no text of definitions
    write_best_effort(path, b"".join((_MAGIC, digest.digest(), *body)), 0o644)


def _agreed(rows: Mapping[str, SnapshotRow]) -> dict[str, int]:
    """Return the fingerprint of each file; RACY for one that two tasks saw differently, or from before 1970."""
    fingerprints: dict[str, int] = {}
    for row in rows.values():
        for one, fingerprint in zip(row.paths, row.fingerprints, strict=True):
            if fingerprints.setdefault(one, fingerprint) != fingerprint or fingerprint < 0:
                fingerprints[one] = RACY
    return fingerprints
