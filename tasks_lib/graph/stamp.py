"""The stamp: says that nothing at all changed since everything was checked, at the price of one look at each file.

For every task that was found up to date it keeps the files on which that answer depends, and what identified their
content when they were looked at, *before* the check: inode and change time, which no ordinary program can set back.
A task is believed without being checked only while all of that, its definition, the settings, the code and doit's
database are the same. The stamp is only ever a shorter way to an answer that doit would give; what it does not know is
checked by doit.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tasks_lib.graph.library import RACY_NS, Library, Mark, replace_bytes

_MAGIC: Final = b"doit-fetch stamp 1\n"
_DIRECTORY: Final = 0o040000
_FORMAT: Final = 0o170000
#: What stands for a file that changed so lately that it could change again without being noticed.
_RACY: Final = -1


class Row(NamedTuple):
    """One task that is up to date: what it depends on, the files that prove it, and their signs."""

    needs: tuple[str, ...]
    paths: tuple[str, ...]
    signs: tuple[int, ...]


class Head(msgspec.Struct, array_like=True, frozen=True):
    """What must be the same for any row to be believed."""

    code: str
    settings: str
    selection: str
    database: int


class _Body(msgspec.Struct, array_like=True):
    head: Head
    open: list[str]
    library: bytes
    marks: dict[str, Mark]
    fetches: msgspec.Raw
    toolchains: msgspec.Raw
    paths: list[str]
    signs: list[int]
    rows: msgspec.Raw


_Rows = dict[str, tuple[list[str], list[int]]]


@dataclass(frozen=True)
class Stamp:
    """A stamp as it was read; `open` are the tasks that were asked for and are not known to be up to date."""

    library: bytes
    marks: dict[str, Mark]
    open: list[str]
    paths: list[str]
    signs: list[int]
    _fetches: msgspec.Raw
    _toolchains: msgspec.Raw
    _rows: msgspec.Raw

    def changed(self) -> list[int]:
        """Return which files are not as they were; [] when all are."""
        now = signs_of(self.paths)
        if now == self.signs:
            return []
        return [number for number, (one, two) in enumerate(zip(now, self.signs, strict=True)) if one != two]

    def digests(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Return the digest of each fetch and of each toolchain that it was made with."""
        decode = msgspec.msgpack.decode
        return decode(self._fetches, type=dict[str, bytes]), decode(self._toolchains, type=dict[str, bytes])

    def rows(self) -> dict[str, Row]:
        """Return the rows by the names of their tasks."""
        made: _Rows = msgspec.msgpack.decode(self._rows, type=_Rows)
        paths, signs = self.paths, self.signs
        return {
            task: Row(tuple(needs), tuple([paths[at] for at in places]), tuple([signs[at] for at in places]))
            for task, (needs, places) in made.items()
        }

    def touched(self, changed: Iterable[int]) -> set[str]:
        """Return the tasks that depend on any of these files."""
        made: _Rows = msgspec.msgpack.decode(self._rows, type=_Rows)
        places = frozenset(changed)
        return {task for task, (_, at) in made.items() if not places.isdisjoint(at)}

    def names(self) -> list[str]:
        """Return the tasks that have rows."""
        return list(msgspec.msgpack.decode(self._rows, type=dict[str, msgspec.Raw]))


def signs_of(paths: Iterable[str]) -> list[int]:
    """Return what identifies the content of each file: 0 when it is missing, a directory by its identity only."""
    signs: list[int] = []
    add, look = signs.append, os.lstat
    for path in paths:
        try:
            status = look(path)
        except OSError:
            add(0)
            continue
        inode = status.st_ino
        add(inode if status.st_mode & _FORMAT == _DIRECTORY else status.st_ctime_ns ^ inode)
    return signs


def look_at(paths: Iterable[str], before: int = 0) -> tuple[int, ...]:
    """Return the signs to be remembered: a file that changed just now gets one that never fits again.

    Args:
        paths: the files.
        before: nanoseconds of the clock at which they were read, if they were.
    """
    names = list(paths)
    young = (before or time.time_ns()) - RACY_NS
    signs = []
    for path, sign in zip(names, signs_of(names), strict=True):
        with contextlib.suppress(OSError):
            status = os.lstat(path)  # ten thousands of them
            if status.st_ctime_ns > young and status.st_mode & _FORMAT != _DIRECTORY:
                sign = _RACY  # the sign of this very path
        signs.append(sign)
    return tuple(signs)


def digests_of(raw: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a short digest of each definition's own text as it is kept."""
    return {name: hashlib.blake2b(text, digest_size=8).digest() for name, text in raw.items()}


def inode_of(path: str) -> int:
    """Return the inode of doit's database, 0 when there is none: with it everything is forgotten."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116
    except OSError:
        return 0


def read(path: Path, head: Head) -> Stamp | None:
    """Return the stamp, None when there is none that fits to `head`."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC)
    body = data[start + 32 :]
    if data[:start] != _MAGIC or hashlib.sha256(body).digest() != data[start : start + 32]:
        return None
    try:
        made = msgspec.msgpack.decode(body, type=_Body)
    except msgspec.MsgspecError:
        return None
    if made.head != head or len(made.paths) != len(made.signs):
        return None
    return Stamp(made.library, made.marks, made.open, made.paths, made.signs, made.fetches, made.toolchains, made.rows)


def write(
    path: Path,
    head: Head,
    library: Library,
    digests: tuple[Mapping[str, bytes], Mapping[str, bytes]],
    rows: Mapping[str, Row],
    wanted: Iterable[str],
) -> None:
    """Write a stamp in one step; what cannot be written just does not help.

    Args:
        path: where to.
        head: what must be the same for it to be believed.
        library: the parsed definitions.
        digests: of each fetch and each toolchain.
        rows: of the tasks that are up to date.
        wanted: all tasks that were asked for.
    """
    places: dict[str, int] = {}
    signs: list[int] = []
    made: _Rows = {}
    for task, row in rows.items():
        at = []
        for one, sign in zip(row.paths, row.signs, strict=True):
            place = places.setdefault(one, len(signs))
            if place == len(signs):
                signs.append(sign)
            elif signs[place] != sign:
                signs[place] = _RACY  # it changed between two looks: neither is to be believed
            at.append(place)
        made[task] = (list(row.needs), at)
    encode = msgspec.msgpack.encode
    fetches, toolchains = (msgspec.Raw(encode(dict(one))) for one in digests)
    still = [task for task in wanted if task not in rows]
    body = encode(
        _Body(
            head,
            still,
            library.identity,
            dict(library.marks),
            fetches,
            toolchains,
            list(places),
            signs,
            msgspec.Raw(encode(made)),
        )
    )
    replace_bytes(path, _MAGIC + hashlib.sha256(body).digest() + body)


class Recorder:
    """Collects rows during a run: of each task that doit finds up to date, and of each that was made."""

    def __init__(self, loaded_ns: int) -> None:
        self._loaded_ns = loaded_ns
        self.rows: dict[str, Row] = {}
        self._made: list[tuple[int, Any]] = []

    def look(self, task: Any) -> Row | None:
        """Look at the files of a task before it is checked; None for a task that is not ours to judge."""
        sources = tuple(path for check, *_ in task.uptodate for path in getattr(check, "sources", ()))
        paths = tuple(path for path in dict.fromkeys(_paths_of(task)) if path not in sources)
        if not paths:
            return None
        links = tuple(path for path in map(os.path.realpath, sources) if path not in sources)
        signs = look_at(paths) + look_at(sources + links, self._loaded_ns)
        return Row(tuple(task.task_dep), paths + sources + links, signs)

    def found(self, task: Any, row: Row | None) -> None:
        """Keep what was seen before the check that found the task up to date."""
        if row is not None:
            self.rows[task.name] = row

    def made(self, task: Any) -> None:
        """Note that a task was made; its files are too young to be believed yet."""
        self._made.append((time.time_ns(), task))

    def settle(self) -> None:
        """Look at the tasks that were made, and check each once more."""
        if self._made:
            time.sleep(max(0, self._made[-1][0] + 2 * RACY_NS - time.time_ns()) / 1e9)
        for _, task in self._made:
            row = self.look(task)
            if row is not None and all(check.holds() for check, *_ in task.uptodate):
                self.rows[task.name] = row
        self._made.clear()


def _paths_of(task: Any) -> Iterator[str]:
    """Yield the files on which a task's state depends; nothing for a task with checks that are not ours."""
    checks = [item[0] for item in task.uptodate]
    if not checks or not all(hasattr(check, "witnesses") for check in checks):
        return
    for check in checks:
        yield from map(str, check.witnesses())
    yield from task.targets
    yield from task.file_dep
