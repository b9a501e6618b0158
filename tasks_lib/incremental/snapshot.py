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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tasks_lib.fs.atomic import write_best_effort
from tasks_lib.fs.fingerprint import Fingerprint, compact_fingerprint
from tasks_lib.fs.trust import NOBODY, Trust
from tasks_lib.incremental.marks import RACY, entries_of, signs_of

if TYPE_CHECKING:
    from tasks_lib.incremental.definition_cache import DefinitionCache

_MAGIC: Final = b"doit-fetch stamp 5\n"
#: The sizes of all parts of the file but the last.
_SIZES: Final = struct.Struct("5Q")


class SnapshotRow(NamedTuple):
    """One task that is up to date: its dependencies, the files that prove it, and the signs of those files.

    `note` says what is not confirmed about its output.
    """

    needs: tuple[str, ...]
    paths: tuple[str, ...]
    signs: tuple[int, ...]
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

    A file with two names (a blob and its artifact) is checked once: `others` are the second names, ordered by
    `directories`. A second name is valid while the names in its directory and the file are unchanged.
    """

    definition_cache: bytes
    marks: dict[str, Fingerprint]
    open: list[str]
    directories: dict[str, list[int]]  # sign, and number of second names
    first: list[str]
    others: str
    signs: list[int]
    names: list[str]  # of the tasks with rows
    notes: dict[str, str]  # of the rows that have one
    more: bytes  # needed only when something changed

    @property
    def paths(self) -> list[str]:
        """The files: first names, then second names."""
        return self.first + _words(self.others)

    def changed(self) -> list[int]:
        """Return the indexes of the files that changed."""
        at = len(self.first)
        found = _different(self.first, self.signs[:at], 0)
        for directory, (sign, count) in self.directories.items():
            if entries_of(directory) != sign or sign == RACY:
                found += _different(self.paths[at : at + count], self.signs[at : at + count], at)
            at += count
        return found

    def digests(self) -> Sequence[dict[str, bytes]]:
        """Return the digests of the definitions of each kind when the snapshot was written."""
        return _unpacked(self.more)[0]

    def rows(self) -> dict[str, SnapshotRow]:
        """Return the rows by task name."""
        made, paths, signs = _unpacked(self.more)[1], self.paths, self.signs
        return {
            task: SnapshotRow(
                needs,
                tuple([paths[at] for at in places]),
                tuple([signs[at] for at in places]),
                self.notes.get(task, ""),
            )
            for task, (needs, places) in made.items()
        }

    def touched(self, changed: Iterable[int]) -> set[str]:
        """Return the tasks that depend on any of these files."""
        places = frozenset(changed)
        return {task for task, (_, at) in _unpacked(self.more)[1].items() if not places.isdisjoint(at)}


def _different(paths: list[str], signs: list[int], start: int) -> list[int]:
    now = signs_of(paths)
    if now == signs:
        return []
    return [start + at for at, (one, two) in enumerate(zip(now, signs, strict=True)) if one != two]


def _unpacked(more: bytes) -> tuple[list[dict[str, bytes]], _Rows]:
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
    if bytes(data[: start - 32]) != _MAGIC or hashlib.sha256(data[start:]).digest() != bytes(data[start - 32 : start]):
        return None
    try:
        *parts, more = _cut(data[start:])
        known = json.loads(bytes(parts[0]))
        if SnapshotHead(*known["head"]) != head:
            return None
        return Snapshot(
            definition_cache=bytes.fromhex(known["library"]),
            marks={name: Fingerprint(*mark) for name, mark in known["marks"].items()},
            open=known["open"],
            directories=known["directories"],
            first=_words(_text(parts[2])),
            others=_text(parts[3]),
            signs=array("Q", bytes(parts[1])).tolist(),
            names=_words(_text(parts[4])),
            notes=known["notes"],
            more=bytes(more),
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


def _text(part: memoryview) -> str:
    return str(part, "utf-8", "surrogateescape")


def _words(text: str) -> list[str]:
    return text.split("\0") if text else []


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
    signs = _agreed(rows)
    seconds = _second_names(signs, _verified(before) if before is not None else {})
    first = [one for one in signs if one not in seconds]
    others = sorted(seconds, key=posixpath.dirname)
    places = {one: at for at, one in enumerate((*first, *others))}
    made: _Rows = {task: (row.needs, tuple([places[one] for one in row.paths])) for task, row in rows.items()}
    directories: dict[str, list[int]] = {}
    for one in others:
        directories.setdefault(posixpath.dirname(one), [seconds[one], 0])[1] += 1
    known = {
        "head": head,
        "open": [task for task in wanted if task not in rows],
        "library": definition_cache.identity.hex(),
        "marks": dict(definition_cache.marks),
        "directories": directories,
        "notes": {task: row.note for task, row in rows.items() if row.note},
    }
    texts = ("\0".join(one).encode("utf-8", "surrogateescape") for one in (first, others, made))
    parts = [json.dumps(known).encode("ascii"), array("Q", [signs[one] for one in places]).tobytes(), *texts]
    rest: bytes = _msgpack().encode(([*map(dict, digests)], made))
    body = [_SIZES.pack(*map(len, parts)), *parts, rest]
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
    # other users of a shared cache read it: it holds names and paths, and no text of definitions
    write_best_effort(path, b"".join((_MAGIC, digest.digest(), *body)), 0o644)


def _agreed(rows: Mapping[str, SnapshotRow]) -> dict[str, int]:
    """Return the sign of each file; RACY for one that two tasks saw differently, or from before 1970."""
    signs: dict[str, int] = {}
    for row in rows.values():
        for one, sign in zip(row.paths, row.signs, strict=True):
            if signs.setdefault(one, sign) != sign or sign < 0:
                signs[one] = RACY
    return signs


def _verified(before: Snapshot) -> dict[str, tuple[str, int, int]]:
    """Return each second name of a snapshot with the first name, the sign of the file, and that of its directory."""
    owners: dict[int, str] = {}
    for name, sign in zip(before.first, before.signs, strict=False):
        owners[sign] = name if sign not in owners else ""  # two files with the same sign: neither is the first name
    ends = [sign for sign, count in before.directories.values() for _ in range(count)]
    names = zip(_words(before.others), before.signs[len(before.first) :], ends, strict=True)
    return {name: (owners.get(sign, ""), sign, end) for name, sign, end in names if end != RACY}


def _second_names(signs: Mapping[str, int], known: Mapping[str, tuple[str, int, int]]) -> dict[str, int]:
    """Return the second names of files, each with the sign of its directory.

    The sign of a directory is taken before its names are checked, so that any later change of a name changes the sign.
    A `known` second name stays valid while its directory and the file are unchanged.
    """
    found: dict[str, int] = {}
    owners: dict[int, str] = {}
    directories: dict[str, int] = {}
    for name, sign in signs.items():
        owner = owners.setdefault(sign, name)
        if owner == name or sign in (0, RACY):
            continue
        directory = posixpath.dirname(name)
        if directory not in directories:
            directories[directory] = entries_of(directory)
        end = directories[directory]
        if known.get(name) == (owner, sign, end) or _is_one_file(owner, name, sign):
            found[name] = end
    return found


def _is_one_file(one: str, two: str, sign: int) -> bool:
    """Whether both names refer to one file, and it has that sign."""
    try:
        first, second = os.lstat(one), os.lstat(two)
    except OSError:
        return False
    return os.path.samestat(first, second) and compact_fingerprint(second) == sign
